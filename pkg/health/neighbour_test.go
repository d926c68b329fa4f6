package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// lan is the test's host, with en1 at a switch, behind which there is a gateway.
type lan struct {
	host, sw, gw netnstest.NS
}

const linkLocal = "fe80::2"

func newLAN(ns netnstest.NS) lan {
	l := lan{ns, ns.New("sw"), ns.New("gw")}
	for _, n := range []netnstest.NS{l.host, l.sw, l.gw} {
		n.Sysctl("net/ipv6/conf/all/accept_dad", "0")
		n.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	}
	l.sw.IP("link add bridge0 type bridge")
	l.sw.IP("link set dev bridge0 up")
	l.plug()
	l.sw.VethTo("p2", l.gw, "eth0")
	l.sw.IP("link set dev p2 master bridge0")
	l.gw.IP("addr add 10.68.1.2/24 dev eth0")
	l.gw.IP("addr add fd68:1::2/64 dev eth0 nodad")
	l.gw.IP("addr add %s/64 dev eth0 nodad", linkLocal)
	return l
}

// plug makes en1.
func (l lan) plug() {
	l.host.VethTo("en1", l.sw, "p1")
	l.sw.IP("link set dev p1 master bridge0")
	l.host.IP("addr add 10.68.1.1/24 dev en1")
	l.host.IP("addr add fd68:1::1/64 dev en1 nodad")
}

// cut drops all frames between host and gateway; carriers stay.
func (l lan) cut()  { l.sw.IP("link set dev p2 nomaster") }
func (l lan) heal() { l.sw.IP("link set dev p2 master bridge0") }

// onlyOurs makes the kernel wait with questions of its own, so that an answer is one
// to a probe.
func (l lan) onlyOurs() {
	for _, family := range []string{"ipv4", "ipv6"} {
		l.host.Sysctl("net/"+family+"/neigh/en1/retrans_time_ms", "3600000")
	}
}

// entry is what `ip neigh` says of the address.
func (l lan) entry(address string) string {
	return strings.TrimSpace(l.host.IP("neigh show to %s dev en1 nud all", address))
}

func neighbour(tb testing.TB, address string) Checker {
	tb.Helper()
	c, err := NewNeighbour(NeighbourConfig{Interface: "en1", Address: netip.MustParseAddr(address)})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// silent wants a run without an answer. One that is over before it has asked, because
// the machine stood still, is none.
func silent(t *testing.T, c Checker, address string) {
	t.Helper()
	err := context.DeadlineExceeded
	for errors.Is(err, context.DeadlineExceeded) {
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
		err = c.Check(ctx)
		cancel()
	}
	if reason := address + " does not answer neighbour probes on en1"; err == nil || err.Error() != reason {
		t.Errorf("check = %v, want %s", err, reason)
	}
}

func gateways() []string { return []string{"10.68.1.2", "fd68:1::2", linkLocal} }

// Whatever state the entry is in, a probe asks at once and hears the answer.
func TestNeighbourAnswers(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		noGoroutines(t)
		l := newLAN(ns)
		l.onlyOurs()
		mac := strings.Fields(l.gw.Exec("cat", "/sys/class/net/eth0/address"))[0]
		for _, a := range gateways() {
			for _, state := range []string{"", "failed", "incomplete", "reachable", "stale", "delay", "probe", "noarp", "permanent"} {
				switch state {
				case "":
					_, _ = l.host.TryIP("neigh del %s dev en1", a)
				case "failed":
					l.host.IP("neigh replace %s dev en1 nud failed", a)
				case "incomplete":
					l.cut()
					_, _ = l.host.TryIP("neigh del %s dev en1", a)
					silent(t, neighbour(t, a), a)
					l.heal()
				default:
					l.host.IP("neigh replace %s dev en1 lladdr %s nud %s", a, mac, state)
				}
				c := neighbour(t, a).(*neighbourCheck)
				if state == "incomplete" {
					c.misses.Store(1) // as the run before, which had no answer
				}
				t.Logf("%s in state %q", a, state)
				want(t, c, patient, "")
				static := state == "noarp" || state == "permanent"
				if e := strings.ToUpper(state); static && !strings.HasSuffix(l.entry(a), e) {
					t.Errorf("entry after a probe in state %q: %s", state, l.entry(a))
				}
				// The kernel takes one in DELAY for reachable by itself if it was confirmed
				// just before, and may say so to the probe, whose answer comes then.
				until(t, func() bool { return static || strings.Contains(l.entry(a), "REACHABLE") }, func() string {
					return fmt.Sprintf("entry after a probe in state %q: %s", state, l.entry(a))
				})
			}
			l.host.IP("neigh del %s dev en1", a)
		}
	})
}

// Silence is seen in all states, and the end of a run's context ends it.
func TestNeighbourSilent(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		noGoroutines(t)
		l := newLAN(ns)
		l.onlyOurs()
		for _, a := range append(gateways(), "10.68.1.99", "fd68:1::99", "fe80::99", "192.0.2.1", "10.68.1.1") {
			c := neighbour(t, a)
			if slices.Contains(gateways(), a) {
				want(t, c, patient, "")
				l.cut()
				silent(t, c, a)
				l.heal() // asks at once, though the last question is still open
				want(t, c, patient, "")
				l.cut()
			}
			for range 5 {
				silent(t, c, a)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := c.Check(ctx); err == nil {
				t.Errorf("%s: a run whose context ended passed", a)
			}
			l.heal()
		}
	})
}

// keep runs the check as the daemon does, and gives the results.
func keep(t *testing.T, c Checker, fall int) func() Result {
	t.Helper()
	m := New(Options{Log: slog.New(slog.DiscardHandler)})
	m.Set([]Spec{{
		ID: "gw", Key: "gw", Kind: "neighbour", Checker: c,
		Interval: 500 * time.Millisecond, Timeout: 250 * time.Millisecond, Rise: 1, Fall: fall,
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func() Result { return m.Results()["gw"] }
}

// becomes waits for a verdict and returns how long that took.
func becomes(t *testing.T, get func() Result, verdict Verdict) time.Duration {
	t.Helper()
	start := time.Now()
	netnstest.Until(t, patient, func() error {
		if r := get(); r.Verdict != verdict {
			return fmt.Errorf("verdict is %+v, want %s", r, verdict)
		}
		return nil
	})
	return time.Since(start)
}

// A silent cut is seen and its end, too, with the kernel's own timers as they are.
func TestNeighbourCut(t *testing.T) {
	for _, a := range gateways() {
		t.Run(a, func(t *testing.T) {
			t.Parallel()
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				l := newLAN(ns)
				get := keep(t, neighbour(t, a), 3)
				becomes(t, get, Healthy)
				l.cut()
				down := becomes(t, get, Unhealthy)
				// A run that was over before it has asked has another reason.
				netnstest.Until(t, patient, func() error {
					if want, got := a+" does not answer neighbour probes on en1", get(); got.Reason != want || got.Verdict != Unhealthy {
						return fmt.Errorf("%s, reason = %q, want %q", got.Verdict, got.Reason, want)
					}
					return nil
				})
				l.heal()
				t.Logf("down after %s, up after %s", down, becomes(t, get, Healthy))
				for _, family := range []string{"ipv4", "ipv6"} {
					if got := l.host.Exec("cat", "/proc/sys/net/"+family+"/neigh/en1/retrans_time_ms"); got != "1000\n" {
						t.Errorf("%s retrans_time_ms = %q", family, got)
					}
				}
			})
		})
	}
}

// capture takes the frames that a device of a namespace receives; the returned
// function gives them, and ends it.
func capture(t *testing.T, ns netnstest.NS, device string) func() [][]byte {
	t.Helper()
	var fd int
	ns.Do(func() error {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network order
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	return func() [][]byte {
		defer func() { _ = unix.Close(fd) }()
		var frames [][]byte
		for {
			b := make([]byte, 2048)
			n, from, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				return frames
			}
			if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
				frames = append(frames, b[:n])
			}
		}
	}
}

// converse sends to a server in the namespace for a second, and tells how many of its
// answers were missing.
func converse(t *testing.T, ns netnstest.NS, address string, lost chan<- int) {
	missing := 200
	defer func() { lost <- missing }()
	var server net.PacketConn
	ns.Do(func() (err error) {
		server, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", address)
		return err
	})
	defer func() { _ = server.Close() }()
	go func() {
		b := make([]byte, 16)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(b[:n], from)
		}
	}()
	client, err := (&net.Dialer{}).DialContext(t.Context(), "udp4", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = client.Close() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range missing {
		<-tick.C
		_, _ = client.Write([]byte("probe"))
		_ = client.SetReadDeadline(time.Now().Add(patient))
		if _, err := client.Read(make([]byte, 16)); err == nil {
			missing--
		}
	}
}

// Probes are asked by unicast from the interface's own address, though another
// device has one that traffic prefers, and no packet of that traffic is lost.
func TestNeighbourDisturbsNobody(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLAN(ns)
		l.host.IP("link add vi0 type bridge")
		l.host.IP("link set dev vi0 up")
		l.host.IP("addr add 10.68.6.1/32 dev vi0")
		l.host.IP("route add 10.68.9.0/24 via 10.68.1.2 src 10.68.6.1")
		l.gw.IP("addr add 10.68.9.9/32 dev lo")
		l.gw.IP("route add 10.68.6.1/32 via 10.68.1.1")
		four, six := neighbour(t, "10.68.1.2"), neighbour(t, linkLocal)
		want(t, four, patient, "")
		want(t, six, patient, "")
		stop := capture(t, l.gw, "eth0")
		traffic := make(chan int, 1)
		go converse(t, l.gw, "10.68.9.9:7", traffic)
		probes := 0
		for running := true; running; probes++ {
			want(t, four, patient, "")
			want(t, six, patient, "")
			select {
			case lost := <-traffic:
				running = false
				if lost != 0 {
					t.Errorf("traffic lost %d packets", lost)
				}
			case <-time.After(10 * time.Millisecond):
			}
		}
		asked := 0
		own := netip.MustParseAddr("10.68.1.1").AsSlice()
		for _, f := range stop() {
			arp := f[12] == 0x08 && f[13] == 0x06 && f[21] == 1
			solicitation := f[12] == 0x86 && f[13] == 0xdd && f[20] == unix.IPPROTO_ICMPV6 && f[54] == 135
			if !arp && !solicitation {
				continue
			}
			asked++
			if f[0]&1 != 0 {
				t.Errorf("a probe to everybody: %x", f)
			}
			if arp && !bytes.Equal(f[28:32], own) {
				t.Errorf("a probe from %d, want %d", f[28:32], own)
			}
		}
		if asked < 2*probes {
			t.Errorf("%d solicitations for %d probes in each family", asked, probes)
		}
	})
}

// The kernel's mark of a router, and that of who made the entry, stay.
func TestNeighbourFlags(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLAN(ns)
		mac := strings.Fields(l.gw.Exec("cat", "/sys/class/net/eth0/address"))[0]
		l.gw.Sysctl("net/ipv6/conf/all/forwarding", "1")
		for _, flags := range []string{"router", "extern_learn", "managed"} {
			l.host.IP("neigh replace %s lladdr %s dev en1 nud stale %s", linkLocal, mac, flags)
			c := neighbour(t, linkLocal)
			want(t, c, patient, "")
			if e := l.entry(linkLocal); !strings.Contains(e, flags) {
				t.Errorf("entry with %s after a probe: %s", flags, e)
			}
			l.host.IP("neigh del %s dev en1", linkLocal)
		}
	})
}

// The interface goes, comes back under another index, and is renamed.
func TestNeighbourInterface(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLAN(ns)
		for _, a := range gateways() {
			c := neighbour(t, a)
			want(t, c, patient, "")
			l.host.IP("link set dev en1 down")
			want(t, c, patient, "en1 is down")
			l.host.IP("link set dev en1 up")
			l.sw.IP("link set dev p1 down")
			netnstest.Until(t, patient, func() error {
				if err := c.Check(t.Context()); err == nil || err.Error() != "en1 has no carrier" {
					return fmt.Errorf("without carrier: %w", err)
				}
				return nil
			})
			l.sw.IP("link set dev p1 up")
			recovers(t, c)
			l.host.IP("link set dev en1 name en2")
			want(t, c, patient, "there is no interface en1")
			l.host.IP("link set dev en2 name en1")
			recovers(t, c)
			l.host.IP("link del en1")
			want(t, c, patient, "there is no interface en1")
			l.plug()
			recovers(t, c)
		}
	})
}

func recovers(t *testing.T, c Checker) {
	t.Helper()
	netnstest.Until(t, patient, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		return c.Check(ctx)
	})
}

// A gateway whose address moves to another link-layer address without a word is
// found before three probes fail.
func TestNeighbourMoves(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLAN(ns)
		for i, a := range gateways() {
			c := neighbour(t, a)
			want(t, c, patient, "")
			mac := fmt.Sprintf("02:00:00:00:00:%02x", i+1)
			l.gw.Sysctl("net/ipv4/conf/eth0/arp_notify", "0")
			l.gw.IP("link set dev eth0 address %s", mac)
			l.gw.IP("addr replace %s/64 dev eth0 nodad", linkLocal)
			for range 2 {
				silent(t, c, a)
			}
			want(t, c, patient, "")
			if !strings.Contains(l.entry(a), mac) {
				t.Errorf("entry after the move to %s: %s", mac, l.entry(a))
			}
		}
	})
}

func TestNewNeighbour(t *testing.T) {
	ok := netip.MustParseAddr("10.0.0.1")
	for _, c := range []NeighbourConfig{
		{},
		{"", ok},
		{"en1", netip.Addr{}},
		{"an_interface_name", ok},
		{"en1", netip.MustParseAddr("0.0.0.0")},
		{"en1", netip.MustParseAddr("224.0.0.1")},
		{"en1", netip.MustParseAddr("::1")},
	} {
		if _, err := NewNeighbour(c); err == nil {
			t.Errorf("NewNeighbour(%+v) gives no error", c)
		}
	}
}
