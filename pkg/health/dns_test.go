package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// packets answers each datagram by what reply makes of it until the test ends.
func packets(t *testing.T, address string, reply func(from net.Addr, b []byte) [][]byte) netip.AddrPort {
	t.Helper()
	c, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			for _, r := range reply(from, b[:n]) {
				_, _ = c.WriteTo(r, from)
			}
		}
	}()
	t.Cleanup(func() { _ = c.Close(); <-done })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// zone is what the test server knows.
func zone(t *testing.T, q dns.Question) (records []dns.RR, rcode int) {
	t.Helper()
	add := func(lines ...string) {
		for _, line := range lines {
			r, err := dns.NewRR(line)
			if err != nil {
				t.Errorf("record %q: %v", line, err)
				continue
			}
			records = append(records, r)
		}
	}
	switch dns.CanonicalName(q.Name) + " " + dns.TypeToString[q.Qtype] {
	case "web.test. A":
		add("web.test. A 192.0.2.1", "web.test. A 192.0.2.2")
	case "web.test. AAAA":
		add("web.test. AAAA 2001:db8:0:0:0:0:0:1")
	case "alias.test. A":
		add("Alias.test. CNAME web.test.", "web.test. A 192.0.2.1")
	case "alias.test. AAAA":
		add("alias.test. CNAME web.test.")
	case "test. NS":
		add("test. NS NS1.test.", "test. NS ns2.test.")
	case "test. MX":
		add("test. MX 10 Mail.test.")
	case "test. SOA":
		add("test. SOA ns1.test. host.test. 7 3600 600 86400 60")
	case "test. TXT":
		add(`test. TXT "v=spf1 " "-all"`, `test. TXT "say \"hi\\\" \195\164 12"`)
	case "test. CAA":
		add(`test. CAA 0 issue "ca.test; policy=x"`)
	case "chaos.test. TXT":
		add(`chaos.test. CH TXT "x"`)
	case "refused.test. A":
		return nil, dns.RcodeRefused
	case "broken.test. A":
		return nil, dns.RcodeServerFailure
	case "odd.test. A":
		return nil, 1000
	case "empty.test. A":
	default:
		return nil, dns.RcodeNameError
	}
	return records, dns.RcodeSuccess
}

// nameServer answers out of zone on UDP and TCP and tells whom.
func nameServer(t *testing.T, ip string, from chan<- string) netip.AddrPort {
	t.Helper()
	answer := func(client net.Addr, b []byte) []byte {
		q := new(dns.Msg)
		if err := q.Unpack(b); err != nil || !q.RecursionDesired || q.IsEdns0() == nil {
			t.Errorf("question = %v, %v; want one with recursion desired and EDNS", q, err)
			return nil
		}
		if from != nil {
			from <- client.(interface{ AddrPort() netip.AddrPort }).AddrPort().Addr().String()
		}
		r := new(dns.Msg).SetReply(q)
		r.SetEdns0(dnsPayload, false) // carries response codes above 15
		r.Answer, r.Rcode = zone(t, q.Question[0])
		raw, err := r.Pack()
		if err != nil {
			t.Error(err)
		}
		return raw
	}
	a := packets(t, net.JoinHostPort(ip, "0"), func(from net.Addr, b []byte) [][]byte { return [][]byte{answer(from, b)} })
	return server(t, a.String(), func(c net.Conn) {
		b := make([]byte, 64<<10)
		if n, _ := c.Read(b); n > 2 {
			raw := answer(c.RemoteAddr(), b[2:n])
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(raw))), raw...))
		}
	})
}

func dnsChecker(t *testing.T, c DNSConfig) Checker {
	t.Helper()
	checker, err := NewDNS(c)
	if err != nil {
		t.Fatal(err)
	}
	return checker
}

func TestDNS(t *testing.T) {
	noGoroutines(t)
	s := nameServer(t, "127.0.0.1", nil)
	for _, tc := range []struct {
		query, qtype, rcode string
		expect              []string
		want                string
	}{
		{"web.test", "a", "", nil, ""},
		{"WEB.test.", "A", "noerror", []string{"192.0.2.2", "192.0.2.1"}, ""},
		{"web.test", "A", "", []string{"192.0.2.1", "192.0.2.3"}, "no 192.0.2.3 in the answer: 192.0.2.1, 192.0.2.2"},
		{"web.test", "AAAA", "", []string{"2001:DB8::1"}, ""},
		{"web.test", "AAAA", "", []string{"::ffff:192.0.2.1"}, "no ::ffff:192.0.2.1 in the answer: 2001:db8::1"},
		{"alias.test", "A", "", []string{"192.0.2.1"}, ""},
		{"alias.test", "AAAA", "", nil, "no AAAA record in the answer"},
		{"test", "NS", "", []string{"ns1.TEST", "NS2.test."}, ""},
		{"test", "NS", "", []string{"ns3.test."}, "no ns3.test. in the answer: NS1.test., ns2.test."},
		{"test", "MX", "", []string{"10 mail.test."}, ""},
		{"test", "MX", "", []string{"20 mail.test."}, "no 20 mail.test. in the answer: 10 Mail.test."},
		{"test", "SOA", "", []string{"ns1.test. host.test. 7 3600 600 86400 60"}, ""},
		{"test", "TXT", "", []string{"v=spf1 -all", `say "hi\" ä 12`}, ""},
		{"test", "TXT", "", []string{"v=spf1"}, `no v=spf1 in the answer: "v=spf1 " "-all", …`},
		{"test", "CAA", "", []string{`0 issue "ca.test; policy=x"`}, ""},
		{"chaos.test", "TXT", "", nil, "no TXT record in the answer"},
		{"refused.test", "A", "", nil, "answer REFUSED, want NOERROR"},
		{"broken.test", "A", "", nil, "answer SERVFAIL, want NOERROR"},
		{"odd.test", "A", "", nil, "answer response code 1000, want NOERROR"},
		{"gone.test", "A", "", nil, "answer NXDOMAIN, want NOERROR"},
		{"gone.test", "A", "NXDOMAIN", nil, ""},
		{"gone.test", "A", "NXDOMAIN", []string{"192.0.2.1"}, "no A record in the answer"},
		{"web.test", "A", "NXDOMAIN", nil, "answer NOERROR, want NXDOMAIN"},
		{"empty.test", "A", "", nil, "no A record in the answer"},
	} {
		for _, transport := range []string{"udp", "tcp"} {
			t.Run(strings.Join([]string{tc.query, tc.qtype, transport, fmt.Sprint(tc.expect)}, " "), func(t *testing.T) {
				reason := tc.want
				if reason != "" {
					reason = fmt.Sprintf("dns %s/%s %s %s: %s", s, transport, dns.Fqdn(tc.query), tc.qtype, reason)
				}
				want(t, dnsChecker(t, DNSConfig{
					Server: s, Query: tc.query, Type: tc.qtype, Transport: transport, ExpectRcode: tc.rcode, Expect: tc.expect,
				}), patient, reason)
			})
		}
	}
}

// reply is the answer to the question, changed.
func reply(t *testing.T, b []byte, change func(*dns.Msg)) []byte {
	t.Helper()
	q := new(dns.Msg)
	if err := q.Unpack(b); err != nil {
		t.Error(err)
		return nil
	}
	r := new(dns.Msg).SetReply(q)
	r.Answer, r.Rcode = zone(t, q.Question[0])
	if change != nil {
		change(r)
	}
	raw, err := r.Pack()
	if err != nil {
		t.Error(err)
	}
	return raw
}

// What comes by UDP and is not the answer does not count, what is malformed does.
func TestDNSStrange(t *testing.T) {
	noGoroutines(t)
	const late = 200 * time.Millisecond
	good := func(b []byte) []byte { return reply(t, b, nil) }
	otherID := func(b []byte) []byte { return reply(t, b, func(m *dns.Msg) { m.Id ^= 1 }) }
	otherName := func(b []byte) []byte { return reply(t, b, func(m *dns.Msg) { m.Question[0].Name = "other.test." }) }
	otherType := func(b []byte) []byte { return reply(t, b, func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }) }
	noQuestion := func(b []byte) []byte { return reply(t, b, func(m *dns.Msg) { m.Question = nil }) }
	question := func(b []byte) []byte { return b }
	garbage := func([]byte) []byte { return []byte("SSH-2.0-OpenSSH_9.9p1 Debian-3\r\n") }
	short := func([]byte) []byte { return []byte("hello") }
	headerOnly := func(b []byte) []byte { return append([]byte{b[0], b[1], 0x81, 0x05}, make([]byte, 8)...) }
	formerr := func(b []byte) []byte {
		return reply(t, b, func(m *dns.Msg) { m.Question, m.Answer, m.Rcode = nil, nil, dns.RcodeFormatError })
	}
	half := func(b []byte) []byte { raw := good(b); return raw[:len(raw)-3] }
	cut := func(b []byte) []byte {
		return reply(t, b, func(m *dns.Msg) { m.Truncated, m.Answer = true, m.Answer[:1] })
	}
	cutWithin := func(b []byte) []byte {
		raw := reply(t, b, func(m *dns.Msg) { m.Truncated = true })
		return raw[:len(raw)-3]
	}
	cutEmpty := func(b []byte) []byte { return reply(t, b, func(m *dns.Msg) { m.Truncated, m.Answer = true, nil }) }
	nothing := func([]byte) []byte { return nil }
	type change = func([]byte) []byte
	for _, tc := range []struct {
		name           string
		replies        []change
		expect         []string
		wantUDP, wantT string
	}{
		{"good", []change{good}, nil, "", ""},
		{"no answer", []change{nothing}, nil, "timeout after …", "no whole answer: EOF"},
		{"other id", []change{otherID}, nil, "an answer came with another id: timeout after …", "an answer came with another id"},
		{"other name", []change{otherName}, nil, "an answer came to another question: timeout after …", "an answer came to another question"},
		{"other type", []change{otherType}, nil, "an answer came to another question: timeout after …", "an answer came to another question"},
		{"no question", []change{noQuestion}, nil, "an answer came to another question: timeout after …", "an answer came to another question"},
		{"echo", []change{question}, nil, "an answer came that is no response: timeout after …", "an answer came that is no response"},
		{"garbage", []change{garbage}, nil, "an answer came with another id: timeout after …", "an answer came with another id"},
		{"short", []change{short}, nil, "an answer came that is too short: timeout after …", "no whole answer: unexpected EOF"},
		{"half", []change{half}, nil, "malformed answer: …", "malformed answer: …"},
		{"refused without question", []change{headerOnly}, nil, "answer REFUSED, want NOERROR", "answer REFUSED, want NOERROR"},
		{"format error without question", []change{formerr}, nil, "answer FORMERR, want NOERROR", "answer FORMERR, want NOERROR"},
		{"strays before the answer", []change{otherID, garbage, short, otherName, good}, nil, "", "an answer came with another id"},
		{"truncated, expected is there", []change{cut}, []string{"192.0.2.1"}, "", ""},
		{"truncated, expected is not there", []change{cut}, []string{"192.0.2.2"}, "no 192.0.2.2 in the truncated answer: 192.0.2.1", "no 192.0.2.2 in the truncated answer: 192.0.2.1"},
		{"truncated within a record", []change{cutWithin}, nil, "no A record in the truncated answer", "no A record in the truncated answer"},
		{"truncated and empty", []change{cutEmpty}, nil, "no A record in the truncated answer", "no A record in the truncated answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run := func(transport, reason string, a netip.AddrPort) {
				if reason != "" {
					reason = fmt.Sprintf("dns %s/%s web.test. A: %s", a, transport, reason)
				}
				timeout := patient
				if strings.HasSuffix(reason, "timeout after …") {
					timeout = late
				}
				want(t, dnsChecker(t, DNSConfig{Server: a, Query: "web.test", Type: "A", Transport: transport, Expect: tc.expect}), timeout, reason)
			}
			run("udp", tc.wantUDP, packets(t, "127.0.0.1:0", func(_ net.Addr, b []byte) (list [][]byte) {
				for _, r := range tc.replies {
					if raw := r(b); raw != nil {
						list = append(list, raw)
					}
				}
				return list
			}))
			run("tcp", tc.wantT, server(t, "127.0.0.1:0", func(c net.Conn) {
				b := make([]byte, 64<<10)
				n, _ := c.Read(b)
				for _, r := range tc.replies {
					if raw := r(b[2:n]); raw != nil {
						_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(raw))), raw...))
					}
				}
			}))
		})
	}
}

// An answer after the deadline is none, and a stream of strays ends with it.
func TestDNSNoAnswer(t *testing.T) {
	noGoroutines(t)
	const timeout = 200 * time.Millisecond
	within := func(limit time.Duration, transport string, a netip.AddrPort, reason string) {
		t.Helper()
		c := dnsChecker(t, DNSConfig{Server: a, Query: "web.test", Type: "A", Transport: transport})
		want(t, c, limit, fmt.Sprintf("dns %s/%s web.test. A: %s", a, transport, reason))
	}
	check := func(transport string, a netip.AddrPort, reason string) {
		t.Helper()
		within(timeout, transport, a, reason)
	}
	gone := closed(t)
	within(patient, "udp", gone, "connection refused")
	within(patient, "tcp", gone, "connection refused")
	check("tcp", deaf(t), "timeout after …")

	wait := func() {
		select {
		case <-time.After(patient):
		case <-t.Context().Done():
		}
	}
	check("udp", packets(t, "127.0.0.1:0", func(_ net.Addr, b []byte) [][]byte {
		wait()
		return [][]byte{reply(t, b, nil)}
	}), "timeout after …")
	check("tcp", server(t, "127.0.0.1:0", func(c net.Conn) {
		b := make([]byte, 64<<10)
		n, _ := c.Read(b)
		raw := reply(t, b[2:n], nil)
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(raw))), raw[:20]...))
		wait()
		_, _ = c.Write(raw[20:])
	}), "timeout after …")
	// The kernel drops what we are too slow for, so they go on until we have enough.
	flood, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		_, from, err := flood.ReadFrom(make([]byte, 64<<10))
		for err == nil {
			if _, err = flood.WriteTo([]byte("x"), from); errors.Is(err, unix.ECONNREFUSED) {
				err = nil // the check is over
			}
		}
	}()
	within(patient, "udp", flood.LocalAddr().(*net.UDPAddr).AddrPort(), "an answer came that is too short: too many answers to other questions")
	_ = flood.Close()
	<-flooded
}

// The question comes from the source that is asked for.
func TestSource(t *testing.T) {
	noGoroutines(t)
	from := make(chan string, 10)
	a := nameServer(t, "127.0.0.1", from)
	six := nameServer(t, "::1", from)
	for _, tc := range []struct {
		server          netip.AddrPort
		source, arrives string
	}{{a, "127.0.0.7", "127.0.0.7"}, {a, "", "127.0.0.1"}, {six, "::1", "::1"}, {six, "", "::1"}} {
		for _, transport := range []string{"udp", "tcp"} {
			c := DNSConfig{Server: tc.server, Query: "web.test", Type: "A", Transport: transport}
			if tc.source != "" {
				c.Source = netip.MustParseAddr(tc.source)
			}
			want(t, dnsChecker(t, c), patient, "")
			if got := <-from; got != tc.arrives {
				t.Errorf("by %s with the source %q, the question came from %s, want %s", transport, tc.source, got, tc.arrives)
			}
			c.Source = netip.MustParseAddr("192.0.2.77")
			if tc.server == six {
				c.Source = netip.MustParseAddr("2001:db8::77")
			}
			want(t, dnsChecker(t, c), patient,
				fmt.Sprintf("dns %s/%s web.test. A: source %s is no address of this host", tc.server, transport, c.Source))
		}
	}
}

// Connections from one source may be as many as there are ports for each peer,
// not as there are ports.
func TestSourcePorts(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Sysctl("net/ipv4/ip_local_port_range", "40000 40003")
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		defer cancel()
		for _, ip := range []string{"127.0.0.1", "::1"} {
			source := netip.MustParseAddr(ip)
			var open []net.Conn
			for range 3 {
				a := server(t, net.JoinHostPort(ip, fmt.Sprint(20000+len(open))), func(net.Conn) { <-ctx.Done() })
				for range 4 {
					c, err := dial(ctx, source, a)
					if err != nil {
						t.Fatalf("connection %d from %s: %v", len(open)+1, ip, err)
					}
					open = append(open, c)
				}
			}
			for _, c := range open {
				_ = c.Close()
			}
		}
		cancel()
	})
}

func TestNewDNS(t *testing.T) {
	server := netip.MustParseAddrPort("192.0.2.53:53")
	for _, tc := range []struct {
		change func(*DNSConfig)
		want   string
	}{
		{func(c *DNSConfig) { c.Server = netip.AddrPort{} }, "no address and port"},
		{func(c *DNSConfig) { c.Server = netip.MustParseAddrPort("192.0.2.53:0") }, "no address and port"},
		{func(c *DNSConfig) { c.Source = netip.MustParseAddr("::1") }, "source ::1 and target 192.0.2.53 are of two families"},
		{func(c *DNSConfig) { c.Source = netip.MustParseAddr("0.0.0.0") }, "source 0.0.0.0 is no address to send from"},
		{func(c *DNSConfig) { c.Transport = "tls" }, "transport tls: neither udp nor tcp"},
		{func(c *DNSConfig) { c.ExpectRcode = "FINE" }, "response code FINE: unknown"},
		{func(c *DNSConfig) { c.Type = "B" }, `type "B": no record type`},
		{func(c *DNSConfig) { c.Type = "" }, `type "": no record type`},
		{func(c *DNSConfig) { c.Type = "ANY" }, `type "ANY": no record type`},
		{func(c *DNSConfig) { c.Type = "AXFR" }, `type "AXFR": no record type`},
		{func(c *DNSConfig) { c.Type = "OPT" }, `type "OPT": no record type`},
		{func(c *DNSConfig) { c.Query = "" }, `query "": no name`},
		{func(c *DNSConfig) { c.Query = "a..b" }, `query "a..b": no name`},
		{func(c *DNSConfig) { c.Query = strings.Repeat("x", 64) }, `query "xxx…`},
		{func(c *DNSConfig) { c.Expect = []string{"::1"} }, `expect "::1": no address for A`},
		{func(c *DNSConfig) { c.Expect = []string{"web"} }, `expect "web": no address for A`},
		{func(c *DNSConfig) { c.Type, c.Expect = "AAAA", []string{"192.0.2.1"} }, `expect "192.0.2.1": no address for AAAA`},
		{func(c *DNSConfig) { c.Type, c.Expect = "MX", []string{"mail.test."} }, `expect "mail.test.": no data for MX`},
		{func(c *DNSConfig) { c.Type, c.Expect = "MX", []string{" "} }, `expect " ": no data for MX`},
		{func(c *DNSConfig) { c.Type, c.Expect = "NS", []string{"a.\nb. NS c."} }, `expect "a.\nb. NS c.": no data for NS`},
	} {
		c := DNSConfig{Server: server, Query: "web.test", Type: "A"}
		tc.change(&c)
		_, err := NewDNS(c)
		begin, open := strings.CutSuffix("dns check: "+tc.want, "…")
		if err == nil || err.Error() != begin && (!open || !strings.HasPrefix(err.Error(), begin)) {
			t.Errorf("NewDNS(%+v) = %v, want %s", c, err, tc.want)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "abc": "abc", `\"`: `"`, `\\`: `\`, `\065\066C`: "ABC", `\`: `\`, `\06`: "06", `\999`: "999", `\+12`: "+12", `\0651`: "A1",
	} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}
