package doctor

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// An IPv6 VIP goes when its device goes down or IPv6 is off there.
func TestVIPUnusable(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		add6 := func() { ns.IP("addr replace fd68:6::1/128 dev vi0 nodad noprefixroute") }
		ns.IP("link set dev vi0 down")
		f := l.finding("vip-unusable", Bad, "the virtual interface vi0 is down")
		if out := ns.IP("-6 addr show dev vi0"); strings.Contains(out, vip6) {
			t.Errorf("the VIP is there: %s", out)
		}
		l.run(&f)
		ns.IP("link set dev vi0 down")
		l.fix("vip-unusable")

		ns.Sysctl("net/ipv6/conf/vi0/disable_ipv6", "1")
		f = l.finding("vip-unusable", Bad, "net.ipv6.conf.vi0.disable_ipv6 is 1")
		if _, err := ns.TryIP("addr add fd68:6::1/128 dev vi0"); err == nil {
			t.Error("the VIP can be bound")
		}
		l.run(&f)
		add6()
		ns.Sysctl("net/ipv6/conf/vi0/disable_ipv6", "1")
		l.fix("vip-unusable")
		add6()
		l.clean()

		// Before the device is made, the default counts.
		ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
		l.clean("vip-unusable")
		ns.IP("link del vi0")
		l.finding("vip-unusable", Bad, "net.ipv6.conf.default.disable_ipv6 is 1")
		l.fix("vip-unusable")
	})
}

// A VIP that another host of the link has is not usable until it is added again.
func TestVIPTentative(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.in.Device = "en5"
		l.far.IP("addr add fd68:6::1/128 dev p5 nodad")
		ns.IP("addr del fd68:6::1/128 dev vi0")
		ns.Sysctl("net/ipv6/conf/en5/accept_dad", "1")
		ns.IP("addr add fd68:6::1/128 dev en5 noprefixroute")
		f := l.finding("vip-unusable", Bad, "fd68:6::1 on en5 is tentative or failed duplicate address detection")
		if c, err := net.ListenPacket("udp", "[fd68:6::1]:0"); err == nil {
			_ = c.Close()
			t.Error("the VIP can be bound to")
		}
		l.run(&f)
		c, err := net.ListenPacket("udp", "[fd68:6::1]:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	})
}

// A host whose loopback interface is down does not reach its own VIPs, though clients
// do.
func TestLoopback(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		reaches := func() error {
			for _, a := range []string{vip4, vip6} {
				server, err := net.Listen("tcp", net.JoinHostPort(a, "0"))
				if err != nil {
					return err
				}
				c, err := net.DialTimeout("tcp", server.Addr().String(), 300*time.Millisecond)
				_ = server.Close()
				if err != nil {
					return err
				}
				_ = c.Close()
			}
			return nil
		}
		netnstest.Until(t, soon, reaches)
		ns.IP("link set dev lo down")
		f := l.finding("loopback", Bad, "lo is down")
		if err := reaches(); !isTimeout(err) {
			t.Errorf("connect: %v", err)
		}
		l.becomes("clients reach the VIP", func() bool { return l.arrives(client4, vip4, "en1") })
		l.run(&f)
		netnstest.Until(t, soon, reaches)
		l.shell(f.Undo)
		l.fix("loopback")
	})
}

// A VIP on a second device is found; so is one that is within a network.
func TestVIPElsewhere(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		ns.IP("addr add 10.68.6.1/24 dev en1")
		f := l.finding("vip-elsewhere", Warning, "vip 10.68.6.1 is on en1 too")
		l.finding("vip-in-subnet", Warning, "vip 10.68.6.1/32 is inside the network 10.68.6.0/24 of en1")
		l.far.IP("addr add 10.68.6.99/24 dev p1")
		if out := l.far.IP("route get 10.68.6.1"); strings.Contains(out, "via") {
			t.Errorf("the neighbour uses the announced route: %s", out)
		}
		if r, err := Fix(t.Context(), l.in); err != nil || len(r.Fixed) > 0 {
			t.Errorf("--fix without a name took the address away: %+v, %v", r, err)
		}
		l.run(&f)
		l.clean("vip-in-subnet")
		l.shell(f.Undo)
		l.fix("vip-elsewhere")
		l.clean()
	})
}

// A VIP that is on another device only is not bound, and that is all there is to
// it: the rule for it comes with it.
func TestVIPElsewhereOnly(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		ns.IP("addr del 10.68.6.1/32 dev vi0")
		ns.IP("rule del pref 32101")
		ns.IP("addr add 10.68.6.1/32 dev en1")
		f := l.finding("vip-elsewhere", Bad, "vip 10.68.6.1 is an address of en1")
		l.clean("rule-missing")
		l.run(&f)
		l.clean("vip-elsewhere")
	})
}

// Where no device can be made, the daemon binds the VIPs to lo: they are in their
// place there.
func TestVIPOnLoopback(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		ns.IP("addr add 10.68.6.1/32 dev lo")
		l.finding("vip-elsewhere", Warning, "vip 10.68.6.1 is on lo too")
		ns.IP("link del vi0")
		l.clean("vip-elsewhere")
		l.in.Daemon = nil
		l.finding("vip-elsewhere", Warning, "vip 10.68.6.1 is on lo too")
	})
}

// While a VIP is unbound, a host that forwards sends its packets back, and one
// that does not forward says nothing.
func TestUnbound(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.far.Sysctl("net/ipv4/conf/all/forwarding", "1")
		l.far.Sysctl("net/ipv4/conf/all/accept_local", "1") // the client is in the same place
		l.routeTo(vip4, "en1")
		ns.IP("rule del pref 32101")
		ns.IP("rule del pref 32110")
		ns.IP("addr del 10.68.6.1/32 dev vi0")
		ns.Sysctl("net/ipv4/conf/all/forwarding", "0")
		l.clean("unbound-loop")
		f := l.finding("unbound-silent", Bad, "vip 10.68.6.1 is not bound, and the host does not forward")
		if err := l.dial(vip4); !isTimeout(err) {
			t.Errorf("connect: %v", err)
		}
		l.run(&f)
		l.becomes("the connection is refused", func() bool {
			err := l.dial(vip4)
			return err != nil && strings.Contains(err.Error(), "refused")
		})

		ns.IP("addr del 10.68.6.1/32 dev vi0")
		l.in.VIPs[0].Away = true
		for _, forwarding := range []string{"0", "1"} {
			ns.Sysctl("net/ipv4/conf/all/forwarding", forwarding)
			l.clean("unbound-loop", "unbound-silent")
		}
		l.in.VIPs[0].Away = false
		l.clean("unbound-silent")
		f = l.finding("unbound-loop", Bad, "vip 10.68.6.1 is not bound, the host forwards, and its route to it leads by 10.68.1.2 dev en1")
		before := l.count("en1")
		_ = l.dial(vip4)
		l.becomes("packets go round", func() bool { return l.count("en1")-before >= 20 })
		l.run(&f)
		before = l.count("en1")
		if err := l.dial(vip4); err == nil {
			t.Error("connected")
		}
		if looped := l.count("en1") - before; looped > 10 {
			t.Errorf("%d packets went round", looped)
		}
		l.shell(f.Undo)
		l.fix("unbound-loop")
		l.shell(f.Undo)
		l.in.Daemon = nil
		l.finding("unbound-loop", Note, "10.68.6.1 is not bound")
	})
}

// dial connects from the client, and gives up soon.
func (l *lab) dial(target string) (err error) {
	l.t.Helper()
	l.far.Do(func() error {
		d := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(client4)}}
		c, dialErr := d.DialContext(l.t.Context(), "tcp", net.JoinHostPort(target, "7"))
		if dialErr == nil {
			dialErr = c.Close()
		}
		err = dialErr
		return nil
	})
	return err
}

func isTimeout(err error) bool {
	n, ok := err.(net.Error) //nolint:errorlint // of the dialer itself
	return ok && n.Timeout()
}

// count is how many packets the interface has received.
func (l *lab) count(device string) int {
	l.t.Helper()
	data, err := os.ReadFile("/sys/class/net/" + device + "/statistics/rx_packets")
	if err != nil {
		l.t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// The kernel of the tests has no dummy devices; bridges it has.
func TestNoDevice(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		ns.IP("link del vi0")
		before := ns.IP("link show")
		l.in.DeviceKind = "dummy"
		if _, err := ns.TryIP("link add t0 type dummy"); err == nil {
			ns.IP("link del t0")
			l.clean("no-device")
		} else {
			f := l.finding("no-device", Bad, "the kernel cannot make a device of kind dummy (operation not supported)")
			if !strings.Contains(f.Command, "virtual_interface: {kind: auto}") {
				t.Errorf("command: %s", f.Command)
			}
		}
		l.in.DeviceKind = "auto" // the other cure
		l.clean("no-device")
		if after := ns.IP("link show"); after != before {
			t.Errorf("devices are left:\n%s", after)
		}
	})
}

// A default route of metric 0 wins over any of ours.
func TestDefaultMetric(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.clean("default-metric")
		l.in.InstallMain, l.in.MainMetric = true, 20
		ns.IP("route add default via 10.68.5.2 proto 68 metric 20")
		f := l.finding("default-metric", Warning, "the main table has default via 10.68.1.2 dev en1 with metric 0")
		if out := ns.IP("route get 10.68.9.9 from 10.68.1.1"); !strings.Contains(out, "dev en1") {
			t.Errorf("route: %s", out)
		}
		l.run(&f)
		if out := ns.IP("route get 10.68.9.9 from 10.68.1.1"); !strings.Contains(out, "dev en5") {
			t.Errorf("route: %s", out)
		}
		l.shell(f.Undo)
		l.finding("default-metric", Warning, "with metric 0")
	})
}

// A VIP prefix is no address that could be missing.
func TestPrefixVIP(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.in.VIPs = append(l.in.VIPs, VIP{Name: "net", Prefix: netip.MustParsePrefix("10.68.7.0/24")})
		ns.IP("route add local 10.68.7.0/24 dev vi0 proto 68 table local")
		l.clean()
	})
}
