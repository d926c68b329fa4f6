package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

func icmpChecker(t *testing.T, c ICMPConfig) Checker {
	t.Helper()
	checker, err := NewICMP(c)
	if err != nil {
		t.Fatal(err)
	}
	return checker
}

// icmpLab is a host with a router on en1 that answers echo requests, and in vain
// also on en2.
//
//	host  en1 10.68.1.1, .7   2001:db8:1::1, ::7   r1  10.68.1.2, .3   2001:db8:1::2, ::3
//	      en2 10.68.2.1       2001:db8:2::1        r2  10.68.2.2       2001:db8:2::2
func icmpLab(ns netnstest.NS) (r1 netnstest.NS) {
	r1, r2 := ns.New("r1"), ns.New("r2")
	ns.VethTo("en1", r1, "p1")
	ns.VethTo("en2", r2, "p2")
	for _, a := range []string{"10.68.1.1/24", "10.68.1.7/24", "2001:db8:1::1/64", "2001:db8:1::7/64", "fe80::1/64"} {
		ns.IP("addr add %s dev en1%s", a, nodad(a))
	}
	for _, a := range []string{"10.68.1.2/24", "10.68.1.3/24", "2001:db8:1::2/64", "2001:db8:1::3/64", "fe80::2/64"} {
		r1.IP("addr add %s dev p1%s", a, nodad(a))
	}
	for _, n := range []string{"1", "2"} {
		a, b := "10.68.2."+n+"/24", "2001:db8:2::"+n+"/64"
		if n == "1" {
			ns.IP("addr add %s dev en2", a)
			ns.IP("addr add %s dev en2 nodad", b)
		} else {
			r2.IP("addr add %s dev p2", a)
			r2.IP("addr add %s dev p2 nodad", b)
		}
	}
	for _, n := range []netnstest.NS{ns, r1} {
		n.Sysctl("net/ipv4/icmp_ratelimit", "0")
		n.Sysctl("net/ipv6/icmp/ratelimit", "0")
		n.Sysctl("net/ipv4/ip_forward", "1")
		n.Sysctl("net/ipv6/conf/all/forwarding", "1")
	}
	return r1
}

func nodad(a string) string {
	if strings.Contains(a, ":") {
		return " nodad"
	}
	return ""
}

// kinds runs fn with each kind of socket that the host may permit.
func kinds(t *testing.T, ns netnstest.NS, fn func(t *testing.T)) {
	for _, kind := range []struct {
		name, groups string
		raw          bool
	}{{"ping socket", "0 2147483647", false}, {"raw socket", "1 0", true}} {
		t.Run(kind.name, func(t *testing.T) {
			ns.Sysctl("net/ipv4/ping_group_range", kind.groups)
			for _, six := range []bool{false, true} {
				fd, raw, err := socketICMP(six)
				if err != nil || raw != kind.raw {
					t.Fatalf("socket for IPv6 %t: raw %t, %v", six, raw, err)
				}
				_ = unix.Close(fd)
			}
			fn(t)
		})
	}
}

func TestICMP(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		noGoroutines(t)
		r1 := icmpLab(ns)
		// Asked for out of en1, found out of en2 else.
		r1.IP("addr add 10.9.9.9/32 dev lo")
		ns.IP("route add 10.9.9.9/32 via 10.68.2.2 dev en2 metric 1")
		ns.IP("route add 10.9.9.9/32 via 10.68.1.2 dev en1 metric 2")
		for _, r := range []string{
			"unreachable 10.9.1.0/24", "prohibit 10.9.2.0/24", "10.9.3.0/24 via 10.68.1.1",
			"10.9.4.0/24 via 10.68.1.1", "10.68.2.0/24 via 10.68.1.1",
			"unreachable 2001:db8:9:1::/64", "prohibit 2001:db8:9:2::/64", "2001:db8:9:3::/64 via 2001:db8:1::1",
		} {
			r1.IP("route add %s", r)
		}
		ns.IP("route add 10.9.0.0/16 via 10.68.1.2")
		ns.IP("route add 2001:db8:9::/48 via 2001:db8:1::2")
		ns.IP("route add 10.9.3.0/24 via 10.68.1.2 hoplimit 1")
		ns.IP("route add 2001:db8:9:3::/64 via 2001:db8:1::2 hoplimit 1")
		ns.Sysctl("net/ipv4/neigh/en1/retrans_time_ms", "20")
		ns.Sysctl("net/ipv6/neigh/en1/retrans_time_ms", "20")
		kinds(t, ns, func(t *testing.T) {
			for _, tc := range []struct{ address, source, device, want string }{
				{"127.0.0.1", "", "", ""},
				{"127.0.0.1", "127.0.0.7", "", ""},
				{"::1", "", "", ""},
				{"::ffff:10.68.1.2", "", "", ""},
				{"10.68.1.2", "10.68.1.7", "en1", ""},
				{"10.68.1.2", "10.68.2.1", "", ""},
				{"10.68.1.2", "10.68.1.99", "", "source 10.68.1.99 is no address of this host"},
				{"10.68.1.2", "", "en9", "device en9 does not exist"},
				{"192.0.2.1", "", "", "network is unreachable"},
				{"10.68.1.50", "", "", "host unreachable, says 10.68.1.1"},
				{"10.9.1.1", "", "", "host unreachable, says 10.68.1.2"},
				{"10.9.2.1", "", "", "administratively prohibited, says 10.68.1.2"},
				{"10.9.3.1", "", "", "time exceeded on the way, says 10.68.1.2"},
				{"10.9.4.1", "", "", "timeout after …"}, // r1 only tells a better way, and that is no error
				{"10.9.9.9", "", "", "network unreachable, says 10.68.2.2"},
				{"10.9.9.9", "", "en1", ""},
				{"2001:db8:1::2", "", "", ""},
				{"2001:db8:1::2", "2001:db8:1::7", "en1", ""},
				{"2001:db8:1::2", "2001:db8:1::99", "", "source 2001:db8:1::99 is no address of this host"},
				{"2001:db8:f::1", "", "", "network is unreachable"},
				{"2001:db8:1::50", "", "", "host unreachable, says 2001:db8:1::…"},
				{"2001:db8:9:1::1", "", "", "network unreachable, says 2001:db8:1::…"},
				{"2001:db8:9:2::1", "", "", "administratively prohibited, says 2001:db8:1::…"},
				{"2001:db8:9:3::1", "", "", "time exceeded on the way, says 2001:db8:…"},
				{"fe80::2", "", "en1", ""},
				{"fe80::2", "fe80::1", "en1", ""},
				{"fe80::2%en1", "", "", ""},
				{"fe80::2%en9", "", "", "device en9 does not exist"},
			} {
				t.Run(tc.address+" "+tc.source+" "+tc.device, func(t *testing.T) {
					c := ICMPConfig{Address: netip.MustParseAddr(tc.address), Device: tc.device}
					if tc.source != "" {
						c.Source = netip.MustParseAddr(tc.source)
					}
					timeout := patient
					if tc.want == "timeout after …" {
						timeout = 300 * time.Millisecond
					}
					if tc.want != "" {
						by := ""
						if tc.device != "" {
							by = " by " + tc.device
						}
						tc.want = "icmp " + tc.address + by + ": " + tc.want
					}
					want(t, icmpChecker(t, c), timeout, tc.want)
				})
			}
		})
	})
}

// answerer answers the echo requests to an address of r1 in place of its kernel.
type answerer struct {
	conns map[string]net.PacketConn // by address
	late  sync.WaitGroup            // answers on their way
}

func answerers(t *testing.T, r1 netnstest.NS, answer func(a *answerer, at string, from net.Addr, m *icmp.Message)) {
	t.Helper()
	r1.Sysctl("net/ipv4/icmp_echo_ignore_all", "1")
	r1.Sysctl("net/ipv6/icmp/echo_ignore_all", "1")
	a := &answerer{conns: map[string]net.PacketConn{}}
	r1.Do(func() error {
		for _, ip := range []string{"10.68.1.2", "10.68.1.3", "2001:db8:1::2", "2001:db8:1::3"} {
			network := "ip4:icmp"
			if strings.Contains(ip, ":") {
				network = "ip6:ipv6-icmp"
			}
			c, err := (&net.ListenConfig{}).ListenPacket(t.Context(), network, ip)
			if err != nil {
				return err
			}
			a.conns[ip] = c
		}
		return nil
	})
	var all errgroup.Group
	for ip, c := range a.conns {
		all.Go(func() error {
			b := make([]byte, 1500)
			protocol := unix.IPPROTO_ICMP
			if strings.Contains(ip, ":") {
				protocol = unix.IPPROTO_ICMPV6
			}
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return nil
				}
				m, err := icmp.ParseMessage(protocol, append([]byte(nil), b[:n]...))
				if err == nil && (m.Type == ipv4.ICMPTypeEcho || m.Type == ipv6.ICMPTypeEchoRequest) {
					answer(a, ip, from, m)
				}
			}
		})
	}
	t.Cleanup(func() {
		a.late.Wait()
		for _, c := range a.conns {
			_ = c.Close()
		}
		_ = all.Wait()
	})
}

// send sends the reply to the request, changed, from the address.
func (a *answerer) send(t *testing.T, from string, to net.Addr, m *icmp.Message, change func(*icmp.Message, *icmp.Echo)) {
	t.Helper()
	body := *m.Body.(*icmp.Echo)
	body.Data = append([]byte(nil), body.Data...)
	r := &icmp.Message{Type: ipv4.ICMPTypeEchoReply, Body: &body}
	if m.Type == ipv6.ICMPTypeEchoRequest {
		r.Type = ipv6.ICMPTypeEchoReply
	}
	if change != nil {
		change(r, &body)
	}
	raw, err := r.Marshal(nil)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err = a.conns[from].WriteTo(raw, to); err != nil {
		t.Error(err)
	}
}

// Only the one reply counts, and the source is the one that is asked for.
func TestICMPStrange(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		noGoroutines(t)
		r1 := icmpLab(ns)
		type answer func(a *answerer, at string, from net.Addr, m *icmp.Message)
		var now atomic.Pointer[answer]
		answerers(t, r1, func(a *answerer, at string, from net.Addr, m *icmp.Message) { (*now.Load())(a, at, from, m) })
		changed := func(change func(*icmp.Message, *icmp.Echo)) answer {
			return func(a *answerer, at string, from net.Addr, m *icmp.Message) { a.send(t, at, from, m, change) }
		}
		otherID := func(_ *icmp.Message, e *icmp.Echo) { e.ID ^= 1 }
		otherNonce := func(_ *icmp.Message, e *icmp.Echo) { e.Data[15] ^= 1 }
		end := make(chan struct{})
		tests := []struct {
			name   string
			answer answer
			ok     bool
		}{
			{"good", changed(nil), true},
			{"nothing", func(*answerer, string, net.Addr, *icmp.Message) {}, false},
			{"other id", changed(otherID), false},
			{"other number", changed(func(_ *icmp.Message, e *icmp.Echo) { e.Seq ^= 1 }), false},
			{"other nonce", changed(otherNonce), false},
			{"cut", changed(func(_ *icmp.Message, e *icmp.Echo) { e.Data = e.Data[:8] }), false},
			{"longer", changed(func(_ *icmp.Message, e *icmp.Echo) { e.Data = append(e.Data, 0) }), false},
			{"another message", changed(func(m *icmp.Message, _ *icmp.Echo) { m.Code = 9; m.Type = ipv4.ICMPTypeTimestampReply }), false},
			{"garbage", func(a *answerer, at string, from net.Addr, _ *icmp.Message) {
				_, _ = a.conns[at].WriteTo([]byte("x\x00\xff"), from)
			}, false},
			{"other address", func(a *answerer, at string, from net.Addr, m *icmp.Message) {
				a.send(t, strings.TrimSuffix(at, "2")+"3", from, m, nil)
			}, false},
			{"strays before the reply", func(a *answerer, at string, from net.Addr, m *icmp.Message) {
				a.send(t, at, from, m, otherID)
				a.send(t, at, from, m, otherNonce)
				a.send(t, at, from, m, nil)
			}, true},
			{"only to the source", func(a *answerer, at string, from net.Addr, m *icmp.Message) {
				if ip := from.String(); ip == "10.68.1.7" || ip == "2001:db8:1::7" {
					a.send(t, at, from, m, nil)
				}
			}, true},
			{"late", func(a *answerer, at string, from net.Addr, m *icmp.Message) {
				a.late.Go(func() {
					select {
					case <-time.After(patient): // the check has given up
					case <-end:
					}
					a.send(t, at, from, m, nil)
				})
			}, false},
		}
		kinds(t, ns, func(t *testing.T) {
			for _, tc := range tests {
				for _, ip := range []string{"10.68.1.", "2001:db8:1::"} {
					t.Run(tc.name+" "+ip, func(t *testing.T) {
						now.Store(&tc.answer)
						reason, timeout := "", patient
						if !tc.ok {
							reason, timeout = "icmp "+ip+"2: timeout after …", 150*time.Millisecond
						}
						want(t, icmpChecker(t, ICMPConfig{Address: netip.MustParseAddr(ip + "2"), Source: netip.MustParseAddr(ip + "7")}), timeout, reason)
					})
				}
			}
		})
		close(end)
	})
}

// Each of many checks at once gets its own reply and no other's.
func TestICMPParallel(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		noGoroutines(t)
		r1 := icmpLab(ns)
		var asked, answered atomic.Int32
		answerers(t, r1, func(a *answerer, at string, from net.Addr, m *icmp.Message) {
			if asked.Add(1)%2 == 0 {
				answered.Add(1)
				a.send(t, at, from, m, nil)
			}
		})
		const checks = 100
		kinds(t, ns, func(t *testing.T) {
			for _, ip := range []string{"10.68.1.2", "2001:db8:1::2"} {
				asked.Store(0)
				answered.Store(0)
				var passed atomic.Int32
				var all errgroup.Group
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				for range checks {
					c := icmpChecker(t, ICMPConfig{Address: netip.MustParseAddr(ip)})
					all.Go(func() error {
						err := c.Check(ctx)
						switch {
						case err == nil:
							passed.Add(1)
						case ctx.Err() == nil:
							return err
						}
						return nil
					})
				}
				until(t, func() bool { return asked.Load() == checks && answered.Load() <= passed.Load() }, func() string {
					return fmt.Sprintf("%s: of %d checks %d asked, %d were answered and %d passed", ip, checks, asked.Load(), answered.Load(), passed.Load())
				})
				quiet(t, nil, "nothing") // a reply that was taken for another's would be in by now
				cancel()
				if err := all.Wait(); err != nil {
					t.Error(err)
				}
				if asked.Load() != checks || answered.Load() != passed.Load() {
					t.Errorf("%s: of %d checks %d asked, %d were answered and %d passed", ip, checks, asked.Load(), answered.Load(), passed.Load())
				}
			}
		})
	})
}

// Where neither kind of socket is permitted, that is what is said.
func TestICMPNotPermitted(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		const missing = "not permitted: needs CAP_NET_RAW, or a group of the process in net.ipv4.ping_group_range"
		permitted := func(check func() error) error {
			result := make(chan error)
			go func() {
				runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
				header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var data [2]unix.CapUserData
				if err := unix.Capget(&header, &data[0]); err != nil {
					result <- err
					return
				}
				data[0].Effective &^= 1 << unix.CAP_NET_RAW
				if err := unix.Capset(&header, &data[0]); err != nil {
					result <- err
					return
				}
				result <- check()
			}()
			return <-result
		}
		ns.Sysctl("net/ipv4/ping_group_range", "1 0")
		if err := ICMPPermitted(); err != nil {
			t.Errorf("with CAP_NET_RAW: %v", err)
		}
		if err := permitted(ICMPPermitted); err == nil || err.Error() != missing {
			t.Errorf("ICMPPermitted = %v, want %s", err, missing)
		}
		for _, ip := range []string{"127.0.0.1", "::1"} {
			c := icmpChecker(t, ICMPConfig{Address: netip.MustParseAddr(ip)})
			err := permitted(func() error { return c.Check(t.Context()) })
			if reason := fmt.Sprintf("icmp %s: %s", ip, missing); err == nil || err.Error() != reason {
				t.Errorf("check = %v, want %s", err, reason)
			}
		}
		ns.Sysctl("net/ipv4/ping_group_range", "0 2147483647")
		if err := permitted(ICMPPermitted); err != nil {
			t.Errorf("with a group: %v", err)
		}
	})
}

func TestNewICMP(t *testing.T) {
	for _, tc := range []struct{ address, source, device, want string }{
		{"0.0.0.0", "", "", "icmp check: address 0.0.0.0: not one host's"},
		{"::", "", "", "icmp check: address ::: not one host's"},
		{"224.0.0.1", "", "", "icmp check: address 224.0.0.1: not one host's"},
		{"ff02::1", "", "", "icmp check: address ff02::1: not one host's"},
		{"255.255.255.255", "", "", "icmp check: address 255.255.255.255: not one host's"},
		{"fe80::1", "", "", "icmp check: address fe80::1: no device"},
		{"fe80::1", "", "en1", ""},
		{"192.0.2.1", "::1", "", "icmp check: source ::1 and target 192.0.2.1 are of two families"},
		{"192.0.2.1", "::ffff:192.0.2.2", "", ""},
	} {
		c := ICMPConfig{Address: netip.MustParseAddr(tc.address), Device: tc.device}
		if tc.source != "" {
			c.Source = netip.MustParseAddr(tc.source)
		}
		_, err := NewICMP(c)
		if err == nil {
			err = errors.New("")
		}
		if err.Error() != tc.want {
			t.Errorf("NewICMP(%+v) = %v, want %s", c, err, tc.want)
		}
	}
	if _, err := NewICMP(ICMPConfig{}); err == nil {
		t.Error("NewICMP without an address gives no error")
	}
}
