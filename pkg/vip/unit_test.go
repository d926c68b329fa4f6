package vip

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestAggregate(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		"10.0.0.1/32":             "10.0.0.1/32",
		"10.0.0.1/32 10.0.0.0/32": "10.0.0.0/31",
		"10.0.0.1/32 10.0.0.2/32": "10.0.0.1/32 10.0.0.2/32",
		"10.0.0.3/32 10.0.0.1/32 10.0.0.2/32 10.0.0.0/32": "10.0.0.0/30",
		"10.0.0.0/24 10.0.0.7/32":                         "10.0.0.0/24",
		"10.0.0.7/32 10.0.0.7/32":                         "10.0.0.7/32",
		"10.0.1.0/24 10.0.0.0/25 10.0.0.128/25":           "10.0.0.0/23",
		"fd00::1/128 fd00::/128 10.0.0.0/32":              "10.0.0.0/32 fd00::/127",
		"0.0.0.0/1 128.0.0.0/1":                           "0.0.0.0/0",
		"10.0.0.9/24":                                     "10.0.0.0/24",
	} {
		var prefixes []netip.Prefix
		for s := range strings.FieldsSeq(in) {
			prefixes = append(prefixes, netip.MustParsePrefix(s))
		}
		var got []string
		for _, p := range aggregate(prefixes) {
			got = append(got, p.String())
		}
		if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
			t.Errorf("aggregate %q (-want +got):\n%s", in, diff)
		}
	}
}

// Exactly the given addresses are covered, in whatever order they come.
func FuzzAggregate(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4}, uint8(30))
	f.Fuzz(func(t *testing.T, hosts []byte, bits uint8) {
		var prefixes []netip.Prefix
		for _, h := range hosts {
			prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, h}), 24+int(bits)%9))
		}
		out := aggregate(prefixes)
		for h := range 256 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(h)})
			n := 0
			for _, p := range out {
				if p.Contains(a) {
					n++
				}
			}
			if isSource(a, prefixes) != (n == 1) || n > 1 {
				t.Fatalf("%s is covered %d times by %v of %v", a, n, out, prefixes)
			}
		}
	})
}

// Whatever a kernel sends, decoding ends without a panic, and what we understand
// of a route survives being written and read again.
func FuzzDecode(f *testing.F) {
	r := route{
		routeKey: routeKey{table: 6801, dst: netip.MustParsePrefix("10.1.0.0/16"), metric: 7},
		proto:    Protocol, kind: 1, prefsrc: vip4.Addr(),
		legs: []leg{{index: 2, gateway: netip.MustParseAddr("10.68.1.2")}, {index: 3, gateway: netip.MustParseAddr("fd68::1"), weight: 2}},
	}
	f.Add(opReplaceRoute(&r).body)
	f.Add(opAddAddress(3, vip6).body)
	f.Add(opAddRule(&rule{family: 2, pref: 1, action: 1, src: vip4, table: 6801}).body)
	f.Add(opCreateLink("vi0", "dummy").body)
	f.Fuzz(func(t *testing.T, b []byte) {
		decodeLink(b)
		decodeAddress(b)
		decodeRule(b)
		one, ok := decodeRoute(b)
		if !ok || one.from.IsValid() || !one.dst.Addr().IsValid() || one.dst.Bits() < 0 || one.kind != 1 {
			return
		}
		if slices.ContainsFunc(one.legs, func(l leg) bool { return l.index <= 0 }) {
			return
		}
		again, ok := decodeRoute(opReplaceRoute(&one).body)
		if !ok || !one.equal(&again) {
			t.Errorf("route %+v became %+v", one, again)
		}
	})
}

// A call that waits for another gives up with its context.
func TestCallsExcludeEachOther(t *testing.T) {
	m := &Manager{turn: make(chan struct{}, 1)}
	m.turn <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := m.Steer(ctx, Desired{}); err == nil || !strings.Contains(err.Error(), "wait for the call before") {
		t.Errorf("error %v", err)
	}
}

// A socket on which an answer is missing is replaced.
func TestBrokenSocketIsReplaced(t *testing.T) {
	c, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err = c.send(appendHeader(nil, unix.RTM_GETLINK, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, 1, make([]byte, unix.SizeofIfInfomsg))); err != nil {
		t.Fatal(err)
	}
	c.broken = true // the answer was not read to its end
	if err = c.renew(); err != nil || c.broken {
		t.Fatal(err)
	}
	if links, err := c.links(t.Context()); err != nil || len(links) == 0 {
		t.Errorf("links %v, %v", links, err)
	}
}
