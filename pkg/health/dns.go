package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const (
	// dnsPayload is how large a datagram the server may send, so that none is
	// fragmented (DNS flag day 2020); dnsBuffer takes what a careless one sends.
	dnsPayload = 1232
	dnsBuffer  = 4096
	// dnsHeaderBytes is the length of a message's header (RFC 1035 section 4.1.1).
	dnsHeaderBytes = 12
	// dnsStrays bounds the datagrams that are not the answer to our question.
	dnsStrays = 1000
)

// DNSConfig is a check that asks a name server.
type DNSConfig struct {
	Server netip.AddrPort
	// Query is the name to ask for; Type is a record type such as A.
	Query, Type string
	// Transport is udp, also if empty, or tcp.
	Transport string
	// ExpectRcode is the good response code; NOERROR if empty.
	ExpectRcode string
	// Expect must all be the data of an answer's record of the type, as in a zone
	// file, that of TXT joined and without quotes. If empty, any record of the
	// type will do, and with another response code than NOERROR none is needed.
	Expect []string
	// Source is the address to ask from; zero for the kernel's choice.
	Source netip.Addr
}

type dnsCheck struct {
	config DNSConfig
	name   string // of the question, fully qualified
	qtype  uint16
	rcode  int
	expect []expectation
	target string
	pace   pace
}

// expectation is the data of a record that must be in the answer.
type expectation struct {
	text  string
	match func(dns.RR) bool
}

// NewDNS returns a check that passes when the server answers the one question,
// asked with recursion desired, as expected. A check is about one transport: a
// truncated answer by udp is not asked for again by tcp, and counts if what is
// expected is in it. It fails for an address, name, type, response code or
// expected data that it cannot use.
func NewDNS(c DNSConfig) (Checker, error) {
	check, err := newDNS(c)
	if err != nil {
		return nil, fmt.Errorf("dns check: %w", err)
	}
	return check, nil
}

func newDNS(c DNSConfig) (*dnsCheck, error) {
	if !c.Server.IsValid() || c.Server.Port() == 0 {
		return nil, errors.New("no address and port")
	}
	if err := checkSource(c.Source, c.Server.Addr()); err != nil {
		return nil, err
	}
	if c.Transport == "" {
		c.Transport = "udp"
	}
	if c.Transport != "udp" && c.Transport != "tcp" {
		return nil, fmt.Errorf("transport %s: neither udp nor tcp", c.Transport)
	}
	if c.ExpectRcode == "" {
		c.ExpectRcode = "NOERROR"
	}
	check := &dnsCheck{config: c, name: dns.Fqdn(c.Query)}
	var ok bool
	if check.rcode, ok = dns.StringToRcode[strings.ToUpper(c.ExpectRcode)]; !ok {
		return nil, fmt.Errorf("response code %s: unknown", c.ExpectRcode)
	}
	c.Type = strings.ToUpper(c.Type)
	check.qtype, ok = dns.StringToType[c.Type]
	// Types from 128 to 255 are questions and not of records (RFC 6895 section 3.1).
	if !ok || check.qtype == dns.TypeNone || check.qtype == dns.TypeOPT || check.qtype>>7 == 1 {
		return nil, fmt.Errorf("type %q: no record type", c.Type)
	}
	if _, err := check.question().Pack(); err != nil || c.Query == "" {
		return nil, fmt.Errorf("query %q: no name", c.Query)
	}
	for _, text := range c.Expect {
		match, err := matcher(c.Type, check.qtype, text)
		if err != nil {
			return nil, fmt.Errorf("expect %q: %w", text, err)
		}
		check.expect = append(check.expect, expectation{text, match})
	}
	check.target = fmt.Sprintf("dns %s/%s %s %s", c.Server, c.Transport, check.name, c.Type)
	return check, nil
}

// matcher tells whether a record, whose owner is the root, has the data.
func matcher(typeName string, qtype uint16, text string) (func(dns.RR) bool, error) {
	switch qtype {
	case dns.TypeA, dns.TypeAAAA:
		want, err := netip.ParseAddr(text)
		if err != nil || want.Zone() != "" || want.Is4() != (qtype == dns.TypeA) {
			return nil, fmt.Errorf("no address for %s", typeName)
		}
		return func(r dns.RR) bool { return recordAddress(r) == want }, nil
	case dns.TypeTXT:
		return func(r dns.RR) bool {
			txt, ok := r.(*dns.TXT)
			return ok && unescape(strings.Join(txt.Txt, "")) == text
		}, nil
	}
	want, err := dns.NewRR(". 0 IN " + typeName + " " + text)
	if err != nil || want == nil || strings.ContainsAny(text, "\r\n") || strings.TrimSpace(text) == "" {
		return nil, fmt.Errorf("no data for %s", typeName)
	}
	return func(r dns.RR) bool { return dns.IsDuplicate(want, r) }, nil
}

func recordAddress(r dns.RR) netip.Addr {
	var ip net.IP
	switch r := r.(type) {
	case *dns.A:
		ip = r.A.To4()
	case *dns.AAAA:
		ip = r.AAAA.To16()
	}
	a, _ := netip.AddrFromSlice(ip)
	return a
}

// unescape undoes the escapes of a zone file (RFC 1035 section 5.1), in which the
// library gives texts.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
			if code, err := strconv.ParseUint(s[i:min(i+3, len(s))], 10, 8); err == nil && i+3 <= len(s) {
				b.WriteByte(byte(code))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// question is a new message with a random id.
func (c *dnsCheck) question() *dns.Msg {
	m := new(dns.Msg).SetQuestion(c.name, c.qtype)
	return m.SetEdns0(dnsPayload, false)
}

// Check implements Checker.
func (c *dnsCheck) Check(ctx context.Context) error {
	start := time.Now()
	kind := unix.SOCK_DGRAM
	if c.config.Transport == "tcp" {
		kind = unix.SOCK_STREAM
	}
	conn, err := open(ctx, kind, c.config.Source, c.config.Server, &c.pace)
	if err != nil {
		return failure(ctx, start, c.target, err)
	}
	defer func() { _ = conn.Close() }()
	x := exchange{conn: conn, question: c.question()}
	if c.config.Transport == "tcp" {
		err = x.byTCP()
	} else {
		err = x.byUDP()
	}
	if err != nil {
		target := c.target
		if x.stray != "" {
			target += ": an answer came " + x.stray
		}
		return failure(ctx, start, target, err)
	}
	if err = c.judge(x.answer); err != nil {
		return fmt.Errorf("%s: %w", c.target, err)
	}
	return nil
}

// exchange is one question and its answer.
type exchange struct {
	conn             io.ReadWriter
	question, answer *dns.Msg
	// stray says what was wrong with the last message that is no answer to the
	// question; empty if there was none.
	stray string
}

// byUDP asks and waits for the answer. What is no answer to the question may come
// from somebody else who guesses, so it is passed over; the deadline is that of
// the connection.
func (x *exchange) byUDP() error {
	raw, err := x.question.Pack()
	if err != nil {
		return err
	}
	if _, err = x.conn.Write(raw); err != nil {
		return err
	}
	buffer := make([]byte, dnsBuffer)
	for range dnsStrays {
		n, err := x.conn.Read(buffer)
		if err != nil {
			return err
		}
		if x.stray = x.strayHeader(buffer[:n]); x.stray != "" {
			continue
		}
		if x.stray, err = x.take(buffer[:n]); x.stray == "" {
			return err
		}
	}
	return errors.New("too many answers to other questions")
}

// byTCP asks and reads one answer. Nobody else speaks on the connection, so any
// other message is the server's mistake.
func (x *exchange) byTCP() error {
	raw, err := x.question.Pack()
	if err != nil {
		return err
	}
	framed := binary.BigEndian.AppendUint16(nil, uint16(len(raw))) //nolint:gosec // a question is far shorter
	if _, err = x.conn.Write(append(framed, raw...)); err != nil {
		return err
	}
	// The header first: the length that garbage seems to have may never come.
	head := make([]byte, 2+dnsHeaderBytes)
	if _, err = io.ReadFull(x.conn, head); err != nil {
		return fmt.Errorf("no whole answer: %w", err)
	}
	length := int(binary.BigEndian.Uint16(head))
	stray := x.strayHeader(head[2:])
	if stray == "" && length < dnsHeaderBytes {
		stray = "that is too short"
	}
	if stray == "" {
		raw = make([]byte, length)
		copy(raw, head[2:])
		if _, err = io.ReadFull(x.conn, raw[dnsHeaderBytes:]); err != nil {
			return fmt.Errorf("no whole answer: %w", err)
		}
		stray, err = x.take(raw)
	}
	if stray != "" {
		return fmt.Errorf("an answer came %s", stray)
	}
	return err
}

// strayHeader says what is wrong if the message cannot be the answer.
func (x *exchange) strayHeader(raw []byte) string {
	switch {
	case len(raw) < dnsHeaderBytes:
		return "that is too short"
	case binary.BigEndian.Uint16(raw) != x.question.Id:
		return "with another id"
	case raw[2]&0x80 == 0:
		return "that is no response"
	}
	return ""
}

// take makes the message the answer, or says why it is none to the question.
func (x *exchange) take(raw []byte) (stray string, err error) {
	answer := new(dns.Msg)
	// A server that cut an answer may have cut a record, and the library drops them all.
	if err = answer.Unpack(raw); err != nil && !answer.Truncated {
		return "", fmt.Errorf("malformed answer: %w", err)
	}
	want := x.question.Question[0]
	switch q := answer.Question; {
	// Refusals may come without the question.
	case len(q) == 0 && (answer.Rcode != dns.RcodeSuccess || answer.Truncated):
	case len(q) != 1 || q[0].Qtype != want.Qtype || q[0].Qclass != want.Qclass ||
		dns.CanonicalName(q[0].Name) != dns.CanonicalName(want.Name):
		return "to another question", nil
	}
	x.answer = answer
	return "", nil
}

// judge compares an answer with what is expected.
func (c *dnsCheck) judge(answer *dns.Msg) error {
	kind := "answer"
	if answer.Truncated {
		kind = "truncated answer"
	}
	if answer.Rcode != c.rcode {
		got, ok := dns.RcodeToString[answer.Rcode]
		if !ok {
			got = fmt.Sprintf("response code %d", answer.Rcode)
		}
		return fmt.Errorf("%s %s, want %s", kind, got, dns.RcodeToString[c.rcode])
	}
	var records []dns.RR
	for _, r := range answer.Answer {
		if h := r.Header(); h.Rrtype == c.qtype && h.Class == dns.ClassINET {
			h.Name = "." // it may be that at the end of a chain of CNAMEs
			records = append(records, r)
		}
	}
	if len(records) == 0 && (len(c.expect) > 0 || c.rcode == dns.RcodeSuccess) {
		return fmt.Errorf("no %s record in the %s", dns.TypeToString[c.qtype], kind)
	}
	for _, e := range c.expect {
		found := false
		for _, r := range records {
			found = found || e.match(r)
		}
		if !found {
			return fmt.Errorf("no %s in the %s: %s", firstLine(e.text, lineBytes), kind, firstLine(dataOf(records), lineBytes))
		}
	}
	return nil
}

// dataOf is the data of records whose owner is the root, as in a zone file.
func dataOf(records []dns.RR) string {
	data := make([]string, len(records))
	for i, r := range records {
		data[i] = strings.TrimPrefix(r.String(), r.Header().String())
	}
	return strings.Join(data, ", ")
}
