package vip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
)

var (
	vip4 = netip.MustParsePrefix("10.68.6.1/32")
	vip6 = netip.MustParsePrefix("fd68:6::1/128")
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// lab is the sample: a host with en1 and en5, each to a router, an unlisted en7,
// and a client behind both routers.
type lab struct {
	netnstest.NS
	r1, r5, client netnstest.NS
	dir            string
}

func newLab(tb testing.TB, ns netnstest.NS) *lab {
	tb.Helper()
	l := &lab{NS: ns, r1: ns.New("r1"), r5: ns.New("r5"), client: ns.New("client"), dir: tb.TempDir()}
	for _, n := range []netnstest.NS{ns, l.r1, l.r5, l.client} {
		n.Sysctl("net/ipv6/conf/default/accept_dad", "0") // link-local addresses at once
	}
	for _, side := range []struct {
		n  string
		to netnstest.NS
	}{{"1", l.r1}, {"5", l.r5}} {
		n := side.n
		ns.VethTo("en"+n, side.to, "wan")
		ns.IP("addr add 10.68.%s.1/24 dev en%s", n, n)
		ns.IP("addr add fd68:%s::1/64 dev en%s nodad", n, n)
		side.to.IP("addr add 10.68.%s.2/24 dev wan", n)
		side.to.IP("addr add fd68:%s::2/64 dev wan nodad", n)
		side.to.VethTo("c", l.client, "r"+n)
		side.to.IP("addr add 10.69.%s.1/24 dev c", n)
		side.to.IP("addr add fd69:%s::1/64 dev c nodad", n)
		l.client.IP("addr add 10.69.%s.2/24 dev r%s", n, n)
		l.client.IP("addr add fd69:%s::2/64 dev r%s nodad", n, n)
		for _, family := range []string{"ipv4", "ipv6"} {
			side.to.Sysctl("net/"+family+"/conf/all/forwarding", "1")
		}
		side.to.IP("route add 10.68.9.9/32 via 10.69.%s.2", n)
		side.to.IP("-6 route add fd68:9::9/128 via fd69:%s::2", n)
		side.to.IP("route add 10.68.6.0/24 via 10.68.%s.1", n)
		side.to.IP("-6 route add fd68:6::/64 via fd68:%s::1", n)
	}
	l.client.IP("addr add 10.68.9.9/32 dev lo")
	l.client.IP("addr add fd68:9::9/128 dev lo nodad")
	l.clientVia("1")
	ns.Veth("en7", "p7")
	ns.IP("addr add 10.68.7.1/24 dev en7")
	ns.IP("addr add fd68:7::1/64 dev en7 nodad")
	ns.IP("route add default via 10.68.1.2 metric 100")
	ns.IP("route add default via 10.68.5.2 metric 200")
	ns.IP("-6 route add default via fd68:1::2 metric 100")
	ns.IP("-6 route add default via fd68:5::2 metric 200")
	l.Sysctl("net/ipv4/fib_multipath_hash_policy", "1")
	l.Sysctl("net/ipv6/fib_multipath_hash_policy", "1")
	l.settle(tb)
	return l
}

// settle waits until the kernel has done by itself what it does when links come
// up: carrier, link-local addresses and the routes for them.
func (l *lab) settle(tb testing.TB) {
	tb.Helper()
	netnstest.Until(tb, soon, func() error {
		routes, links := l.IP("-6 route show table local"), l.IP("-6 addr")
		for _, dev := range []string{"en1", "en5", "en7", "p7"} {
			if !regexp.MustCompile(`local fe80\S+ dev `+dev+` `).MatchString(routes) || !strings.Contains(routes, "multicast ff00::/8 dev "+dev+" ") {
				return fmt.Errorf("%s has no link-local address: %s", dev, routes)
			}
		}
		for _, bad := range []string{"tentative", "NO-CARRIER", "state DOWN", "state LOWERLAYERDOWN"} {
			if strings.Contains(links, bad) {
				return errors.New(links)
			}
		}
		if !strings.Contains(routes, "fd68:7::1") {
			return errors.New(routes)
		}
		return nil
	})
}

// clientVia routes the client to the VIPs through the router of that side.
func (l *lab) clientVia(n string) {
	l.client.IP("route replace 10.68.0.0/16 via 10.69.%s.1", n)
	l.client.IP("-6 route replace fd68::/16 via fd69:%s::1", n)
}

func (l *lab) manager(tb testing.TB) *Manager {
	tb.Helper()
	return newManager(tb, Options{Log: discard(), StateDir: l.dir})
}

// newManager is New for a test in which the kernel and the disk are well.
func newManager(tb testing.TB, o Options) *Manager {
	tb.Helper()
	m, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(m.Close)
	// A busy machine takes longer than the loop waits before it tries again.
	m.deliveryBound, m.state.bound = soon, soon
	return m
}

// desired binds the VIPs and makes them the source on both interfaces.
func desired(vips ...netip.Prefix) Desired {
	d := Desired{
		Device: Device{Name: "vi0", Kind: KindAuto}, VIPs: vips, Sysctls: SysctlSet,
		Interfaces: []Interface{{Name: "en1", Usable: true}, {Name: "en5", Usable: true}},
	}
	for _, v := range slices.Backward(vips) { // the first of each family
		for i := range d.Interfaces {
			if v.Addr().Is4() {
				d.Interfaces[i].Source4 = v.Addr()
			} else {
				d.Interfaces[i].Source6 = v.Addr()
			}
		}
	}
	return d
}

// usable is d with other verdicts on the interfaces.
func (d Desired) usable(verdicts ...bool) Desired {
	d.Interfaces = slices.Clone(d.Interfaces)
	for i := range verdicts {
		d.Interfaces[i].Usable = verdicts[i]
	}
	return d
}

// converge does what the loop does in one pass.
func converge(tb testing.TB, m *Manager, d Desired) Actual {
	tb.Helper()
	out, err := attempt(tb.Context(), m, d)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func attempt(ctx context.Context, m *Manager, d Desired) (Actual, error) {
	writes, repaired := 0, map[string]int{}
	var last Actual
	for _, call := range []func(context.Context, Desired) (Actual, error){m.Steer, m.Bind, m.Unbind} {
		a, err := call(ctx, d)
		writes += a.Writes
		for k, v := range a.Repaired {
			repaired[k] += v
		}
		if last = a; err != nil {
			return a, err
		}
	}
	last.Writes, last.Repaired = writes, repaired
	return last, nil
}

// dump is the whole network configuration of the host as ip(8) and sysctl(8)
// show it, without what changes by itself.
func (l *lab) dump() string {
	var b bytes.Buffer
	for _, command := range []string{
		"addr", "-6 addr", "rule", "-6 rule", "route show table all", "-6 route show table all",
	} {
		b.WriteString("# ip " + command + "\n" + l.IP("%s", command))
	}
	b.WriteString("# sysctl\n")
	for line := range strings.Lines(l.Exec("sysctl", "-a", "-r", `^net\.ipv[46]\.`)) {
		if !strings.Contains(line, "stable_secret") && !strings.Contains(line, ".netfilter.") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (l *lab) same(tb testing.TB, before string) {
	tb.Helper()
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(l.dump(), "\n")); diff != "" {
		tb.Errorf("the host is not as before (-before +now):\n%s", diff)
	}
	if _, err := os.Stat(l.dir + "/" + stateName); err == nil {
		tb.Error("the state file is still there")
	}
}

// sameButOrder is same for tests that themselves took something away and put it
// back, which changes the order of routes.
func (l *lab) sameButOrder(tb testing.TB, before string) {
	tb.Helper()
	sorted := func(s string) []string { return slices.Sorted(strings.Lines(s)) }
	if diff := cmp.Diff(sorted(before), sorted(l.dump())); diff != "" {
		tb.Errorf("the host is not as before (-before +now):\n%s", diff)
	}
}

// soon is for how long is waited for what comes in no time. Only a failure uses it up, or
// a machine that stands still.
const soon = 30 * time.Second
