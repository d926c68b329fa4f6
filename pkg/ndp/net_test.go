package ndp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// station sends what the test says from a link of another namespace, and hears.
type station struct {
	t     *testing.T
	port  *rawPort
	heard chan packet
	self  netip.Addr
}

func newStation(t *testing.T, ns netnstest.NS, device string) *station {
	t.Helper()
	s := &station{t: t, heard: make(chan packet, 4096), self: linkLocal(t, ns, device)}
	ns.Do(func() error {
		k, err := newKernel()
		if err != nil {
			return err
		}
		defer k.close()
		links, err := k.look([]string{device})
		if err != nil {
			return err
		}
		s.port, err = openPort(1, &links[0], s.self, s.heard)
		return err
	})
	t.Cleanup(s.close)
	return s
}

func (s *station) close() {
	if s.port != nil {
		s.port.close()
		s.port = nil
	}
}

// advertise sends an advertisement with that lifetime in seconds.
func (s *station) advertise(lifetime uint16) {
	s.t.Helper()
	b := advertisement(mac)[:advertisementBytes]
	binary.BigEndian.PutUint16(b[6:], lifetime)
	s.send(b)
}

func (s *station) send(b []byte) {
	s.t.Helper()
	if err := s.port.send(allNodes(), b); err != nil {
		s.t.Fatal(err)
	}
}

// hear waits for the next packet of that kind. How fast they come is what the tests of
// the engine tell.
func (s *station) hear(kind uint8) packet {
	s.t.Helper()
	return s.hearWithin(kind, patience)
}

func (s *station) hearWithin(kind uint8, within time.Duration) packet {
	s.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	for {
		select {
		case p := <-s.heard:
			if p.kind == kind {
				return p
			}
		case <-deadline.C:
			s.t.Fatalf("nothing of kind %d heard in %s", kind, within)
		}
	}
}

// quick makes link-local addresses usable at once.
func quick(all ...netnstest.NS) {
	for _, n := range all {
		n.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	}
}

// What leaves is what receivers take, a question is answered, and no host takes
// us for a default router nor makes an address.
func TestAdvertises(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		r1 := ns.New("r1")
		quick(ns, r1)
		ns.VethTo("en1", r1, "e1")
		self := linkLocal(t, ns, "en1")
		s := newStation(t, r1, "e1")
		before := r1.IP("-6 route show table all") + r1.IP("-6 addr show dev e1")
		o := run(t, "en1")
		want := packet{socket: 1, from: self, hopLimit: 255, message: message{kind: kindAdvertisement, sourced: true}}
		for range fastAdvertisements {
			if diff := cmp.Diff(want, s.hear(kindAdvertisement), cmp.AllowUnexported(packet{}, message{}),
				cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		if err := s.port.send(allRouters(), solicitation(mac)); err != nil {
			t.Fatal(err)
		}
		s.hearWithin(kindAdvertisement, minInterval-time.Second) // without a question it would take longer
		if after := r1.IP("-6 route show table all") + r1.IP("-6 addr show dev e1"); after != before {
			t.Errorf("the other host was\n%s\nand is\n%s", before, after)
		}
		if got := ns.Exec("cat", "/proc/sys/net/ipv6/conf/en1/accept_ra", "/proc/sys/net/ipv6/conf/en1/forwarding"); got != "1\n0\n" {
			t.Errorf("accept_ra and forwarding are %q", got)
		}
		o.end()
	})
}

// Routers are learned in one packet; what others must not send is ignored.
func TestHears(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		r1 := ns.New("r1")
		quick(ns, r1)
		ns.Sysctl("net/ipv6/conf/default/accept_ra", "0") // no neighbour entries by the kernel
		ns.VethTo("en1", r1, "e1")
		linkLocal(t, ns, "en1")
		s := newStation(t, r1, "e1")
		o := run(t, "en1")
		s.hear(kindSolicitation)
		if err := unix.SetsockoptInt(int(s.port.file.Fd()), unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, 254); err != nil {
			t.Fatal(err)
		}
		s.advertise(30) // from farther away, as it were
		if err := unix.SetsockoptInt(int(s.port.file.Fd()), unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			t.Fatal(err)
		}
		s.send([]byte{134, 0, 0, 0, 0, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}) // option of length 0
		s.hear(kindAdvertisement)
		if i := o.iface("en1"); len(i.Routers) != 0 || i.Error != "" {
			t.Errorf("en1 is %+v", i)
		}
		began := time.Now()
		s.advertise(0)
		i := o.awaitRouters("en1", advertises(s.self, "en1"))
		t.Logf("learned after %s", time.Since(began))
		if r := i.Routers[0]; r.Expires.Sub(r.Heard) != maxHold {
			t.Errorf("router is %+v", r)
		}
		o.end()
		if i := o.m.State(); len(i.Interfaces) != 0 {
			t.Errorf("state after the end: %+v", i)
		}
	})
}

// A router that sends nothing is learned by its first packet to us.
func TestNeighbours(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		r1 := ns.New("r1")
		quick(ns, r1)
		ns.VethTo("en1", r1, "e1")
		self, s := linkLocal(t, ns, "en1"), newStation(t, r1, "e1")
		router := s.self
		o := run(t, "en1")
		o.awaitError("en1", "")
		began := time.Now()
		if err := s.port.send(self, solicitation(mac)); err != nil { // any packet to our address
			t.Fatal(err)
		}
		o.awaitRouters("en1", Router{Address: router.WithZone("en1")})
		t.Logf("learned after %s", time.Since(began))
		ns.IP("-6 neigh replace %s lladdr 02:00:00:00:00:05 dev en1 router nud stale", "fe80::5")
		ns.IP("-6 neigh replace %s lladdr 02:00:00:00:00:06 dev en1 nud failed", "fe80::6")
		o.awaitRouters("en1", Router{Address: netip.MustParseAddr("fe80::5%en1"), Flagged: true}, Router{Address: router.WithZone("en1")})
		ns.IP("-6 neigh del fe80::5 dev en1")
		ns.IP("-6 neigh del %s dev en1", router)
		o.awaitRouters("en1")
		o.end()
	})
}

// Two routers on a link; one is replaced by another one, carrier staying up.
func TestTwoRouters(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		sw, r1, r2 := ns.New("sw"), ns.New("r1"), ns.New("r2")
		quick(ns, r1, r2)
		ns.Sysctl("net/ipv6/conf/default/accept_ra", "0")
		sw.IP("link add br0 type bridge mcast_snooping 0")
		sw.IP("link set br0 up")
		ns.VethTo("en1", sw, "port0")
		r1.VethTo("e1", sw, "port1")
		r2.VethTo("e1", sw, "port2")
		for _, p := range []string{"port0", "port1", "port2"} {
			sw.IP("link set %s master br0", p)
		}
		linkLocal(t, ns, "en1")
		s1, s2 := newStation(t, r1, "e1"), newStation(t, r2, "e1")
		o := run(t, "en1")
		s1.hear(kindAdvertisement)
		s1.advertise(30)
		o.awaitRouters("en1", advertises(s1.self, "en1"))
		s2.hear(kindAdvertisement) // its port forwards
		s2.advertise(30)
		o.awaitRouters("en1", advertises(s2.self, "en1"), advertises(s1.self, "en1"))
		pokes := o.pokes.Load()
		for range 50 {
			s1.advertise(30)
			s2.advertise(30)
		}
		all := time.Now()
		netnstest.Until(t, patience, func() error { // until those are heard that follow them
			s1.advertise(30)
			s2.advertise(30)
			for _, r := range o.iface("en1").Routers {
				if !r.Heard.After(all) {
					return fmt.Errorf("%s was last heard at %s", r.Address, r.Heard)
				}
			}
			return nil
		})
		o.awaitRouters("en1", advertises(s2.self, "en1"), advertises(s1.self, "en1"))
		if got := o.pokes.Load(); got != pokes {
			t.Errorf("%d pokes for nothing", got-pokes)
		}
		// r2 is replaced: another MAC, another link-local address.
		old := s2.self
		s2.close()
		r2.IP("link set e1 down")
		r2.IP("link set e1 address 02:00:00:00:22:22")
		r2.IP("link set e1 up")
		s2 = newStation(t, r2, "e1")
		if s2.self == old {
			t.Fatalf("its address is still %s", old)
		}
		o.await("en1", "one with the new router", func(i Interface) bool {
			s2.advertise(30) // again, until its port forwards
			return len(i.Routers) > 2
		})
		o.awaitRouters("en1", advertises(s2.self, "en1"), advertises(old, "en1"), advertises(s1.self, "en1"))
		o.end()
	})
}

// The interface goes down, loses carrier, goes away, comes back under another
// number, is renamed, has no IPv6 for a while: State says so and recovers.
func TestInterfaceChanges(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		r1 := ns.New("r1")
		quick(ns, r1)
		ns.Sysctl("net/ipv6/conf/default/accept_ra", "0")
		o := run(t, "en1")
		o.awaitError("en1", "there is no such interface")
		number := 0
		meet := func(what string) {
			t.Helper()
			linkLocal(t, ns, "en1")
			s := newStation(t, r1, "e1")
			began := time.Now()
			s.hear(kindAdvertisement)
			s.advertise(30)
			i := o.awaitRouters("en1", advertises(s.self, "en1"))
			if i.Error != "" {
				t.Errorf("%s: error %q", what, i.Error)
			}
			number = i.Index
			t.Logf("%s: our advertisement and the router after %s", what, time.Since(began))
			s.close()
		}
		ns.VethTo("en1", r1, "e1")
		meet("made")
		r1.IP("link set e1 down")
		o.awaitError("en1", "the link is down")
		o.awaitRouters("en1")
		r1.IP("link set e1 up")
		meet("carrier back")
		ns.IP("link set en1 down")
		o.awaitError("en1", "the link is down")
		ns.IP("link set en1 up")
		meet("up again")
		ns.IP("link set en1 name en9")
		o.awaitError("en1", "there is no such interface")
		ns.IP("link set en9 name en1")
		meet("renamed back")
		ns.Sysctl("net/ipv6/conf/en1/disable_ipv6", "1")
		o.awaitError("en1", "IPv6 is disabled on the interface")
		ns.Sysctl("net/ipv6/conf/en1/disable_ipv6", "0")
		o.awaitError("en1", "")
		meet("IPv6 again")
		was := number
		ns.IP("link del en1")
		o.awaitError("en1", "there is no such interface")
		o.awaitRouters("en1")
		ns.VethTo("en1", r1, "e1")
		meet("made anew")
		if number == was {
			t.Fatalf("still number %d", was)
		}
		// At once: the name never seems to be absent.
		was = number
		ns.IP("link add spare type veth peer name e2 netns r1")
		r1.IP("link set e2 up")
		ns.Exec("sh", "-c", "ip link del en1; ip link set spare name en1 up; ip -n r1 link set e2 down; ip -n r1 link set e2 name e1 up")
		meet("exchanged")
		if number == was {
			t.Fatalf("still number %d", was)
		}
		o.end()
	})
}

// Whatever counts is told at once, and not only found by the next look.
func TestChangesAreTold(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		r1 := ns.New("r1")
		quick(ns, r1)
		k, err := newKernel()
		if err != nil {
			t.Fatal(err)
		}
		defer k.close()
		for _, change := range []struct {
			in      netnstest.NS
			command string
		}{
			{ns, "link add en1 type veth peer name e1 netns r1"},
			{ns, "link set en1 up"},
			{r1, "link set e1 up"},
			{ns, "addr add fe80::9/64 dev en1"},
			{ns, "addr del fe80::9/64 dev en1"},
			{ns, "-6 neigh replace fe80::5 lladdr 02:00:00:00:00:05 dev en1 router nud stale"},
			{ns, "-6 neigh del fe80::5 dev en1"},
			{r1, "link set e1 down"},
			{ns, "link set en1 down"},
			{ns, "link set en1 name en9"},
			{ns, "link set en9 name en1"},
			{ns, "link del en1"},
		} {
			if _, err := k.look([]string{"en1"}); err != nil {
				t.Fatal(err)
			}
			for quiet := false; !quiet; { // what the last one brought with it
				select {
				case <-k.changed():
				case <-time.After(200 * time.Millisecond):
					quiet = true
				}
			}
			change.in.IP("%s", change.command)
			select {
			case <-k.changed():
			case <-time.After(patience):
				t.Errorf("nothing is told of ip %s", change.command)
			}
		}
	})
}

// While an address is checked for duplicates nothing is sent; then all begins.
func TestTentative(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		r1 := ns.New("r1")
		quick(r1)
		ns.Sysctl("net/ipv6/conf/default/dad_transmits", "1000") // one each second
		o := run(t, "en1")
		ns.VethTo("en1", r1, "e1")
		o.awaitError("en1", "is still being checked for duplicates")
		ns.IP("link set en1 down")
		o.awaitError("en1", "the link is down")
		ns.Sysctl("net/ipv6/conf/en1/dad_transmits", "1")
		ns.IP("link set en1 up")
		began := time.Now()
		o.awaitError("en1", "")
		t.Logf("usable after %s", time.Since(began))
		s := newStation(t, r1, "e1")
		s.hear(kindAdvertisement)
		s.close()
		o.end()
	})
}

// unprivilegedEnv makes TestPermitted the check of a process without rights.
const unprivilegedEnv = "VIPSPEAKER_NDP_UNPRIVILEGED"

// Without CAP_NET_RAW the start check and the interface say so, and neighbours
// are still known.
func TestPermitted(t *testing.T) {
	if os.Getenv(unprivilegedEnv) != "" {
		unprivileged(t)
		return
	}
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		if err := Permitted(); err != nil {
			t.Fatal(err)
		}
		quick(ns)
		ns.Veth("en1", "p1")
		linkLocal(t, ns, "en1")
		ns.IP("-6 neigh replace fe80::5 lladdr 02:00:00:00:00:05 dev en1 router nud permanent")
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestPermitted$", "-test.count=1", "-test.v")
		cmd.Env = append(os.Environ(), unprivilegedEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		var out []byte
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			// What a thread may not have, nothing that it executes gets.
			if err = unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_RAW, 0, 0, 0); err == nil {
				out, err = cmd.CombinedOutput()
			}
		}()
		<-done
		if err != nil || !strings.Contains(string(out), "--- PASS: TestPermitted") {
			t.Fatalf("without CAP_NET_RAW: %v\n%s", err, out)
		}
	})
}

func unprivileged(t *testing.T) {
	t.Helper()
	if err := Permitted(); err == nil || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("permitted: %v", err)
	}
	o := run(t, "en1")
	o.awaitError("en1", "CAP_NET_RAW")
	o.awaitRouters("en1", Router{Address: netip.MustParseAddr("fe80::5%en1"), Flagged: true})
	o.end()
}

// A flood of advertisements from ever other addresses is bounded.
func TestFloodOnTheWire(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		r1 := ns.New("r1")
		quick(ns, r1)
		ns.Sysctl("net/ipv6/conf/default/accept_ra", "0")
		ns.VethTo("en1", r1, "e1")
		linkLocal(t, ns, "en1")
		s := newStation(t, r1, "e1")
		o := run(t, "en1")
		s.hear(kindAdvertisement)
		for n := range maxRouters + 8 {
			r1.IP("addr add fe80::1:%x/64 dev e1 nodad", n)
			if err := s.sendFrom(netip.MustParseAddr(fmt.Sprintf("fe80::1:%x", n)), advertisement(mac)); err != nil {
				t.Fatal(err)
			}
		}
		i := o.awaitError("en1", "more than 16 routers")
		for n, r := range i.Routers { // behind them, what the kernel knows
			if r.ByAdvertisement != (n < maxRouters) {
				t.Errorf("router %d is %+v", n, r)
			}
		}
		o.end()
	})
}

// sendFrom sends from another address of the link.
func (s *station) sendFrom(a netip.Addr, b []byte) error {
	info := make([]byte, unix.SizeofInet6Pktinfo)
	from := a.As16()
	copy(info, from[:])
	binary.NativeEndian.PutUint32(info[16:], s.port.index)
	control := make([]byte, unix.CmsgSpace(len(info)))
	binary.NativeEndian.PutUint64(control, uint64(unix.CmsgLen(len(info))))
	binary.NativeEndian.PutUint32(control[8:], unix.SOL_IPV6)
	binary.NativeEndian.PutUint32(control[12:], unix.IPV6_PKTINFO)
	copy(control[16:], info)
	var err error
	return errors.Join(s.port.conn.Control(func(fd uintptr) {
		err = unix.Sendmsg(int(fd), b, control, s.port.sockaddr(allNodes()), 0)
	}), err)
}
