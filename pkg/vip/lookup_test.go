package vip

import (
	"net/netip"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"
)

// What Lookup says is what a socket gets, by the rule that it names.
func TestLookup(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.IP("route add unreachable 10.71.0.0/16")
		l.IP("rule add pref 20000 to 10.72.0.0/16 lookup 900")
		l.IP("route add 10.72.0.0/16 via 10.68.5.2 table 900")
		d := sourceLab()
		d.Exclude = []netip.Prefix{netip.MustParsePrefix("10.70.9.0/24"), netip.MustParsePrefix("fd70:9::/32")}
		converge(t, l.manager(t), d)
		r, err := NewReader()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for _, c := range []struct {
			uid, mark int
			to, iface string
			rank      int
			general   bool
			rule      string // of the last rule
			local     bool
		}{
			{0, 0, "10.68.9.9", "", -1, true, "32366: from 0.0.0.0 lookup 6802", false},
			{0, 0, "fd68:9::9", "", -1, true, "32366: from all lookup 6802", false},
			{1000, 0, "10.70.1.1", "", 0, false, "32110: from 0.0.0.0 to 10.70.0.0/16 uidrange 1000-1000 lookup", false},
			{1000, 0x10, "10.70.2.1", "", 0, false, "32110: ", false},
			{7, 0x110, "fd70:2::1", "", 7, false, "32117: from all fwmark 0x10/0xff lookup", false},
			{3000, 0, "10.68.1.77", "", -1, true, "32366: ", false},
			{3000, 0, "10.68.5.77", "", 3, false, "32113: ", false},
			{1000, 0, "10.70.9.1", "", -1, false, "32766: from all lookup main", false},
			{1000, 0, "fd70:9::1", "", -1, false, "32766: from all lookup main", false},
			{1000, 0, "10.68.7.77", "", -1, false, "32766: from all lookup main", false},
			{1000, 0, "10.68.6.1", "", -1, false, "0: from all lookup local", true},
			{1000, 0, "10.72.1.1", "", -1, false, "20000: from all to 10.72.0.0/16 lookup 900", false},
			{0, 0, "10.68.9.9", "en7", -1, false, "", false},
		} {
			f := Flow{To: netip.MustParseAddr(c.to), User: uint32(c.uid), Mark: uint32(c.mark), Interface: c.iface}
			got, failed := r.Lookup(t.Context(), f)
			if failed != nil {
				t.Errorf("%+v: %v", f, failed)
				continue
			}
			if c.iface == "en7" { // no route by it: taken for on-link
				if got.Unreachable != "" || got.Source != netip.MustParseAddr("10.68.7.1") || got.Hops[0].Interface != "en7" || !got.Own {
					t.Errorf("%+v: %+v, want the address of en7", f, got)
				}
				continue
			}
			source, failed := process{uid: c.uid, mark: c.mark}.source("udp", netip.AddrPortFrom(f.To, 53).String())
			last := got.Rules[len(got.Rules)-1]
			if failed != nil || got.Source != source || last.Rank != c.rank || last.General != c.general || !strings.HasPrefix(last.Text, c.rule) || got.Local != c.local {
				t.Errorf("%+v: source %s, a socket gets %s (%v); by %+v, want rank %d, general %t, %q",
					f, got.Source, source, failed, got.Rules, c.rank, c.general, c.rule)
			}
			if len(got.Hops) == 0 || got.Route == "" {
				t.Errorf("%+v: %+v has no next hop or no route", f, got)
			}
		}
		// A connection that is there has resolved its neighbour.
		echo(t, l.client, "10.68.9.9:7000")
		connect(t, "10.68.1.1:0", "10.68.9.9:7000")
		got, err := r.Lookup(t.Context(), Flow{To: netip.MustParseAddr("10.68.9.9"), From: netip.MustParseAddr("10.68.1.1")})
		if err != nil || len(got.Hops) != 1 || got.Hops[0].Interface != "en1" || got.Hops[0].LinkAddress == "" || !got.Own && got.Source.IsValid() {
			t.Errorf("from en1: %+v, %v", got, err)
		}
		if got, err = r.Lookup(t.Context(), Flow{To: netip.MustParseAddr("10.71.1.1"), From: netip.MustParseAddr("10.68.1.1")}); err != nil || got.Unreachable == "" {
			t.Errorf("unreachable: %+v, %v", got, err)
		}
		l.IP("-6 route add unreachable fd71::/16")
		if got, err = r.Lookup(t.Context(), Flow{To: netip.MustParseAddr("fd71::1"), From: netip.MustParseAddr("fd68:1::1")}); err != nil || got.Unreachable == "" {
			t.Errorf("unreachable: %+v, %v", got, err)
		}
		if _, err = r.Lookup(t.Context(), Flow{To: netip.MustParseAddr("10.71.1.1"), Interface: "en9"}); err == nil {
			t.Error("an interface that does not exist is taken")
		}
	})
}
