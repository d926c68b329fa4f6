package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// A process on the BGP port is named; our own is none.
func TestPortTaken(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.in.Daemon = nil
		l.clean("port-taken")
		squatter := exec.Command("systemd-socket-activate", "-l", "0.0.0.0:179", "cat")
		if err := squatter.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = squatter.Wait(); close(ended) }()
		netnstest.Until(t, soon, func() error {
			if len(l.examine("port-taken").Findings) == 0 {
				return errors.New("no finding")
			}
			return nil
		})
		pid := strconv.Itoa(squatter.Process.Pid)
		f := l.finding("port-taken", Bad, "systemd-socket- (process "+pid+") listens on 0.0.0.0:179")
		if c, err := net.Listen("tcp", "10.68.1.1:179"); err == nil {
			_ = c.Close()
			t.Error("the port can be listened on")
		}
		l.shell(f.Command)
		<-ended
		l.clean("port-taken")

		own, err := net.Listen("tcp", "10.68.1.1:179")
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close() //nolint:errcheck // of a test
		l.in.Daemon = &Daemon{Speakers: []int{os.Getpid()}}
		l.clean("port-taken")
		l.in.Daemon = &Daemon{PID: os.Getppid()}
		l.clean("port-taken")
		l.in.Daemon = nil
		// Who chooses a name must not drive the terminal of who reads it.
		if err := os.WriteFile("/proc/self/comm", []byte("a\x1b[31mb"), 0); err != nil {
			t.Fatal(err)
		}
		l.finding("port-taken", Bad, "a?[31mb (process "+strconv.Itoa(os.Getpid())+") listens on 10.68.1.1:179")
		l.in.Interfaces = l.in.Interfaces[1:]
		l.clean("port-taken") // not ours
		l.in.ListenPort = 0
		l.clean("port-taken")
	})
}

// What is configured and was not negotiated is told for each session.
func TestCapability(t *testing.T) {
	in := &Input{
		Interfaces: []Interface{{Name: "en1", Peers: []Peer{{
			Address: netip.MustParseAddr("fd68:1::2"),
			Wants:   Capabilities{IPv4: true, IPv6: true, ExtendedNextHop: true, GracefulRestart: true, LongLived: true},
		}}}},
		VIPs:  []VIP{{Prefix: netip.MustParsePrefix("10.68.6.1/32")}, {Prefix: netip.MustParsePrefix("fd68:6::1/128")}},
		Peers: []Peer{{Address: netip.MustParseAddr("10.68.9.9"), Wants: Capabilities{IPv4: true, AddPath: true}}},
	}
	look := func() (list []string) {
		r, err := Examine(t.Context(), in, "capability")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.All() {
			if !strings.HasPrefix(f.Command, "# on the router: ") || f.Why == "" {
				t.Errorf("%+v", f)
			}
			list = append(list, string(f.Severity)+" "+f.Found)
		}
		return list
	}
	if list := look(); len(list) > 0 {
		t.Errorf("without sessions: %q", list)
	}
	in.Interfaces[0].Peers[0].Has = &Capabilities{IPv4: true}
	in.Peers[0].Has = &Capabilities{IPv4: true}
	const session = "the session with fd68:1::2 (en1) is established without "
	want := []string{
		"bad " + session + "IPv6 unicast",
		"bad " + session + "extended next hops (RFC 8950)",
		"warning " + session + "graceful restart (RFC 4724)",
		"warning the session with 10.68.9.9 (no interface) is established without ADD-PATH (RFC 7911)",
	}
	if got := strings.Join(look(), "\n"); got != strings.Join(want, "\n") {
		t.Errorf("findings:\n%s", got)
	}
	// One session for each family is as good.
	wants := Capabilities{IPv4: true, IPv6: true}
	two := []Peer{
		{Address: netip.MustParseAddr("fd68:1::2"), Wants: wants, Has: &Capabilities{IPv6: true}},
		{Address: netip.MustParseAddr("10.68.1.2"), Wants: wants, Has: &Capabilities{IPv4: true}},
	}
	one := in.Interfaces[0].Peers
	in.Interfaces[0].Peers = two
	if list := look(); len(list) != 1 { // that of ADD-PATH
		t.Errorf("with a session for each family: %q", list)
	}
	two[1].Has = nil
	if list := look(); len(list) != 2 || list[0] != "bad "+session+"IPv4 unicast" {
		t.Errorf("with one session for IPv6: %q", list)
	}
	in.Interfaces[0].Peers = one
	in.Interfaces[0].Peers[0].Has = &in.Interfaces[0].Peers[0].Wants // what the cure leads to
	in.Peers[0].Has = &in.Peers[0].Wants
	if list := look(); len(list) > 0 {
		t.Errorf("with all: %q", list)
	}
}

// TestBFDNotUp: what BGP alone does not show is told, and only while BGP is there to
// hide it.
func TestBFDNotUp(t *testing.T) {
	in := &Input{
		Interfaces: []Interface{{Name: "en1", Peers: []Peer{{Address: netip.MustParseAddr("10.68.1.2")}}}},
		Peers:      []Peer{{Address: netip.MustParseAddr("10.68.9.9"), Multihop: true}},
	}
	for _, c := range []struct {
		what               string
		bfd, established   bool
		state              string
		onInterface, other string
	}{
		{what: "no BFD", established: true},
		{what: "no daemon", bfd: true},
		{what: "no session yet", bfd: true, state: "Down"},
		{what: "all up", bfd: true, established: true, state: "Up"},
		{
			what: "not spoken there", bfd: true, established: true, state: "Down",
			onInterface: "the session with 10.68.1.2 (en1) is established, and its BFD session is Down",
			other:       "the session with 10.68.9.9 (no interface) is established, and its BFD session is Down",
		},
	} {
		for _, p := range []*Peer{&in.Interfaces[0].Peers[0], &in.Peers[0]} {
			p.BFD, p.BFDState, p.Has = c.bfd, c.state, nil
			if c.established {
				p.Has = &Capabilities{}
			}
		}
		r, err := Examine(t.Context(), in, "bfd")
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, f := range r.Findings {
			found = append(found, f.Found)
		}
		var want []string
		if c.other != "" {
			want = []string{c.onInterface, c.other}
		}
		if !slices.Equal(found, want) {
			t.Errorf("%s: %q", c.what, found)
		}
	}
}

// The clock is asked, and compared with one that nobody sets.
func TestClock(t *testing.T) {
	wrong, failed := true, error(nil)
	in := &Input{Unsynchronised: func() (bool, error) { return wrong, failed }}
	look := func() *Report {
		r, err := Examine(t.Context(), in, "clock")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := look(); len(r.Notes) != 1 || r.Notes[0].Found != "the kernel's clock is not synchronised" || !r.Good() {
		t.Errorf("%+v", r)
	}
	wrong = false
	age, err := ageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now().Add(-age) // or before, by what passed in between
	for _, tt := range []struct {
		after, step time.Duration // of the start, and the least that the clock was set by
	}{{0, 0}, {startTolerance - time.Second, 0}, {-time.Hour, time.Hour}, {time.Hour, -time.Hour}} {
		in.Daemon = &Daemon{PID: os.Getpid(), Started: start.Add(tt.after)}
		r := look()
		if tt.step == 0 {
			if len(r.All()) > 0 {
				t.Errorf("started %s after the process: %+v", tt.after, r)
			}
			continue
		}
		// The machine may stand still between two readings of clocks.
		step, err := time.Duration(0), error(nil)
		if len(r.Notes) == 1 {
			text, _ := strings.CutPrefix(r.Notes[0].Found, "the clock was set by ")
			text, _, _ = strings.Cut(text, " since the daemon started ")
			step, err = time.ParseDuration(text)
		}
		if (step-tt.step).Abs() > time.Minute || err != nil {
			t.Errorf("set by %s: %+v, %v", tt.step, r, err)
		}
	}
	in.Daemon, failed = nil, unix.EPERM
	if r := look(); len(r.NotSeen) != 1 {
		t.Errorf("%+v", r)
	}
	in.Unsynchronised = nil
	look() // the kernel's own
}

// A path that takes less than the interface sends is found and measured.
func TestMTU(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.clean("mtu")
		l.far.IP("link set dev p1 mtu 1372")
		f := l.finding("mtu", Bad, "en1 has an MTU of 1500, but packets to 10.68.1.2 and back get through whole up to 1372 bytes only")
		if l.large(1500) {
			t.Error("a packet of 1500 bytes gets through")
		}
		l.becomes("veth takes room for a VLAN tag, which is no room for packets", func() bool { return l.large(1376) })
		if l.large(1377) {
			t.Error("a packet of 1377 bytes gets through")
		}
		l.run(&f)
		if mtu := mtuOf(t, "en1"); mtu != 1372 {
			t.Errorf("the MTU is %d after what was advised", mtu)
		}
		l.shell(f.Undo)
		l.fix("mtu")
		l.shell(f.Undo)
		l.far.IP("addr del 10.68.1.2/24 dev p1")
		l.in.Interfaces[0].Peers = l.in.Interfaces[0].Peers[:1]
		if r := l.examine("mtu"); len(r.All()) > 0 || len(r.NotSeen) != 1 || r.NotSeen[0].Reason != "10.68.1.2 does not answer echo requests" {
			t.Errorf("a silent router: %+v", r)
		}
	})
}

// What a path to an IPv6 router takes is found too, where the kernel reports a lost
// packet as an error.
func TestMTUToIPv6(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.in.Interfaces[0].Peers = l.in.Interfaces[0].Peers[1:]
		l.far.IP("link set dev p1 mtu 1372")
		want := "en1 has an MTU of 1500, but packets to fd68:1::2 and back get through whole up to 1372 bytes only"
		if r := l.examine("mtu"); len(r.Findings) != 1 || r.Findings[0].Found != want || len(r.NotSeen) > 0 {
			t.Errorf("%+v", r)
		}
	})
}

// A router that takes larger packets than it sends is no fault of the path: TCP does
// not send it what it could not send back.
func TestMTUOfThePeer(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.far.IP("route replace 10.68.1.0/24 dev p1 src 10.68.1.2 mtu lock 1400")
		l.far.IP("-6 route replace fd68:1::/64 dev p1 mtu 1400")
		l.clean("mtu")
	})
}

func mtuOf(t *testing.T, device string) int {
	t.Helper()
	l, err := net.InterfaceByName(device)
	if err != nil {
		t.Fatal(err)
	}
	return l.MTU
}

// An interface with IPv6 does not get an MTU with which the kernel has none.
func TestMTUOfIPv6(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.far.IP("link set dev p1 mtu 1000")
		r, err := Fix(t.Context(), l.in, "mtu")
		if err != nil || len(r.Findings) != 1 || r.Findings[0].Remedy != ByHand || !strings.HasPrefix(r.Findings[0].Command, "# ") {
			t.Errorf("%+v, %v", r, err)
		}
		if out := ns.IP("-6 addr show dev en1"); !strings.Contains(out, "fd68:1::1") {
			t.Errorf("--fix took IPv6 off the interface: %s", out)
		}
	})
}

// A neighbour with a VIP is found by ARP and by ND.
func TestDuplicate(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.clean("duplicate")
		l.far.IP("addr add 10.68.6.1/32 dev p5")
		l.far.IP("addr add fd68:6::1/128 dev p1 nodad")
		local(t, l.far, vip6)
		mac := func(device string) string {
			fields := strings.Fields(l.far.IP("-br link show dev %s", device))
			return fields[2]
		}
		for _, n := range []struct{ address, near, far string }{{vip4, "en5", "p5"}, {vip6, "en1", "p1"}} {
			f := l.finding("duplicate", Warning, "a host with the link-layer address "+mac(n.far)+" on "+n.near+" has "+n.address+" too")
			_, command, _ := strings.Cut(f.Command, "on it: ")
			l.far.Exec("sh", "-c", strings.ReplaceAll(command, "INTERFACE", n.far))
		}
		l.clean("duplicate")
	})
}

// Neighbours are not asked for many VIPs at once, nor for more than some.
func TestDuplicateOfMany(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.in.Interfaces = l.in.Interfaces[:1]
		l.in.VIPs = nil
		for i := range 100 {
			l.in.VIPs = append(l.in.VIPs, VIP{Name: fmt.Sprint("v", i), Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 70, 0, byte(i)}), 32)})
		}
		l.far.IP("addr add 10.70.0.%d/32 dev p1", askMost-1)
		sent := func() int {
			data, err := os.ReadFile("/sys/class/net/en1/statistics/tx_packets")
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.Atoi(strings.TrimSpace(string(data)))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		const others = 10 // packets that the kernel sends by itself
		before, began := sent(), time.Now()
		done := make(chan *Report)
		go func() {
			r, err := Examine(t.Context(), l.in, "duplicate")
			if err != nil {
				t.Error(err)
			}
			done <- r
		}()
		netnstest.Until(t, soon, func() error {
			if n := sent() - before; n < askAtOnce+others {
				return fmt.Errorf("%d packets", n)
			}
			return nil
		})
		if n, most := sent()-before, askAtOnce+int(time.Since(began)/askPause)+others; n > most {
			t.Errorf("%d packets in %v, want at most %d", n, time.Since(began), most)
		}
		r := <-done
		if len(r.Findings) != 1 || r.Findings[0].Subject != fmt.Sprintf("10.70.0.%d", askMost-1) {
			t.Errorf("findings: %+v", r.Findings)
		}
		if len(r.NotSeen) != 1 || r.NotSeen[0].Reason != "of 100 VIPs neighbours are asked for the first 64 only" {
			t.Errorf("not seen: %+v", r.NotSeen)
		}
	})
}

// An own interface on the same network is no other host.
func TestDuplicateIsOwn(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.far.IP("link add sw type bridge")
		l.far.IP("link set dev sw up")
		l.far.IP("link set dev p1 master sw")
		l.far.IP("link set dev p5 master sw")
		l.clean("duplicate")
	})
}

// large tells whether a packet of so many bytes gets to the router.
func (l *lab) large(size int) (got bool) {
	l.t.Helper()
	var server net.PacketConn
	l.far.Do(func() (err error) {
		server, err = net.ListenPacket("udp", "10.68.1.2:0")
		return err
	})
	defer server.Close() //nolint:errcheck // of a test
	// Without a source it would take the table of the VIP, and perhaps en5.
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP("10.68.1.1")}}
	c, err := d.DialContext(l.t.Context(), "udp", server.LocalAddr().String())
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // of a test
	for range 5 {
		if _, err := c.Write(make([]byte, size-28)); err != nil {
			l.t.Fatal(err)
		}
		if received(server, 40*time.Millisecond) != "" {
			return true
		}
	}
	return false
}
