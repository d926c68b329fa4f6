package trace

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// kernel answers by destination, and by "from" and the source where there is one.
type kernel map[string]vip.Lookup

// Lookup implements Kernel.
func (k kernel) Lookup(_ context.Context, f vip.Flow) (vip.Lookup, error) {
	key := f.To.String()
	if f.From.IsValid() {
		key += " from " + f.From.String()
	}
	l, ok := k[key]
	if !ok {
		return l, fmt.Errorf("nothing is asked about %s", key)
	}
	return l, nil
}

func picture() *status.Status {
	on := func(names ...string) []status.VIPInterface {
		var list []status.VIPInterface
		for _, n := range names {
			list = append(list, status.VIPInterface{Interface: n})
		}
		return list
	}
	return &status.Status{
		VIPs: []status.VIP{
			{Name: "all", Prefix: netip.MustParsePrefix("10.0.0.1/32"), PreferredSource: true, Reason: status.NoSession, Interfaces: on("en1", "en5")},
			{Name: "rule", Prefix: netip.MustParsePrefix("10.0.0.2/32"), Interfaces: on("en1"), SourceRules: []status.SourceRule{
				{Entry: 0, Rank: 3, Destination: netip.MustParsePrefix("10.9.0.0/16")},
				{Entry: 1, Rank: 1, Users: &status.Users{First: 7, Last: 9}, Mark: 1, Mask: 3},
			}},
			{Name: "six", Prefix: netip.MustParsePrefix("fd00::1/128"), PreferredSource: true, Interfaces: on("en1")},
			{Name: "net", Prefix: netip.MustParsePrefix("10.7.0.0/24"), Interfaces: on("en1")},
		},
		Interfaces: []status.Interface{{Name: "en1"}, {Name: "en5"}},
		Peers: []status.Peer{
			{Address: netip.MustParseAddr("10.1.0.2"), Interface: "en1", State: "Established"},
			{Found: "unnumbered", Interface: "en5", State: "Idle"},
		},
	}
}

// answer is a look-up that ended in main, by an interface with its address.
func answer(hop string, change func(*vip.Lookup)) vip.Lookup {
	l := vip.Lookup{
		Table: tableMain, Route: "default", Source: netip.MustParseAddr("10.1.0.1"), Own: true, Hops: []vip.Hop{{Interface: hop}},
		Rules: []vip.LookupRule{{Priority: 32766, Text: "32766: from all lookup main", Rank: -1}},
	}
	if change != nil {
		change(&l)
	}
	return l
}

func by(rules ...vip.LookupRule) func(*vip.Lookup) {
	return func(l *vip.Lookup) { l.Rules, l.Table = rules, 6802 }
}

// TestWhy wants the right word for each way to a source.
func TestWhy(t *testing.T) {
	t.Parallel()
	ours := vip.LookupRule{Priority: 32110, Ours: true, Rank: -1}
	ranked, general, gone, jump := ours, ours, ours, ours
	ranked.Rank, general.General, gone.Rank, jump.Jump = 1, true, 9, true
	main := vip.LookupRule{Priority: 32766, Rank: -1}
	past := func(l *vip.Lookup) { l.Rules = []vip.LookupRule{jump, main} }
	for name, c := range map[string]struct {
		l          vip.Lookup
		to         string
		user, mark uint32
		reason     status.Reason
		detail     string
	}{
		"no route":           {vip.Lookup{Unreachable: "network is unreachable"}, "192.0.2.1", 0, 0, status.SourceUnreachable, "network is unreachable"},
		"own address":        {answer("lo", func(l *vip.Lookup) { l.Local = true }), "10.1.0.1", 0, 0, status.SourceLocal, "address of this host"},
		"rule":               {answer("en1", by(ranked)), "192.0.2.1", 7, 1, status.SourceByRule, "source.rules[1] of rule: mark 0x1/0x3 users 7-9"},
		"rule of another":    {answer("en1", by(gone)), "192.0.2.1", 7, 1, status.SourceByRule, "no longer has"},
		"all":                {answer("en1", by(general)), "192.0.2.1", 0, 0, status.SourcePreferred, "leaves by en1"},
		"peer":               {answer("en1", past), "10.1.0.2", 0, 0, status.SourceExcluded, "is a BGP peer"},
		"link-local":         {answer("en1", past), "169.254.1.1", 0, 0, status.SourceExcluded, "link-local"},
		"multicast":          {answer("en1", past), "224.0.0.5", 0, 0, status.SourceExcluded, "multicast"},
		"broadcast":          {answer("en1", past), "255.255.255.255", 0, 0, status.SourceExcluded, "broadcasts"},
		"excluded":           {answer("en1", past), "192.0.2.1", 0, 0, status.SourceExcluded, "egress.exclude"},
		"bound, no route":    {answer("lo", func(l *vip.Lookup) { l.Table = 0 }), "192.0.2.1", 0, 0, status.SourceUnlisted, "it leaves by lo, "},
		"foreign rule":       {answer("en1", by(vip.LookupRule{Priority: 9, Text: "9: from all lookup 7", Rank: -1})), "192.0.2.1", 0, 0, status.SourceForeignRule, "9: from all"},
		"unlisted interface": {answer("en7", nil), "192.0.2.1", 0, 0, status.SourceUnlisted, "en7, which is not"},
		"route's own":        {answer("en1", func(l *vip.Lookup) { l.Own = false }), "192.0.2.1", 0, 0, status.SourceByRoute, "names this source"},
		"not announced":      {answer("en5", nil), "192.0.2.1", 7, 1, status.NoSession, "all would be the source, and is not announced"},
		"rule before all":    {answer("en1", nil), "192.0.2.1", 7, 5, status.SourceNotYet, "rule would be the source"},
		"user does not do":   {answer("en1", nil), "192.0.2.1", 6, 5, status.NoSession, "all would"},
		"destination":        {answer("en1", nil), "10.9.1.1", 6, 0, status.SourceNotYet, "rule would be"},
		"other family":       {answer("en5", nil), "fd99::1", 0, 0, status.SourceNone, "no VIP"},
	} {
		f := vip.Flow{To: netip.MustParseAddr(c.to), User: c.user, Mark: c.mark}
		k := kernel{c.to: c.l, c.to + " from 10.1.0.1": c.l}
		got, err := Out(t.Context(), k, picture(), f)
		if err != nil || got.Reason != c.reason || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%s: %+v, %v; want %s: %s", name, got, err, c.reason, c.detail)
			continue
		}
		steps := 2
		if c.l.Unreachable != "" || c.l.Local {
			steps = 1
		}
		if len(got.Steps) != steps || got.Steps[0].Name != "source" {
			t.Errorf("%s: %d steps, want %d", name, len(got.Steps), steps)
		}
	}
}

// TestOutFrom traces a packet with a source, with what is on its interface.
func TestOutFrom(t *testing.T) {
	t.Parallel()
	from := netip.MustParseAddr("10.7.0.9")
	k := kernel{
		"192.0.2.1 from 10.7.0.9": answer("en1", nil),
		"192.0.2.2 from 10.7.0.9": vip.Lookup{Unreachable: "no route to host"},
	}
	got, err := Out(t.Context(), k, picture(), vip.Flow{To: netip.MustParseAddr("192.0.2.1"), From: from})
	if err != nil || got.Reason != status.SourceBound || got.VIP != "net" || got.From != from || len(got.Steps) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if s := got.Steps[0]; s.Table != "main" || len(s.Hops) != 1 || len(s.Hops[0].Sessions) != 1 || s.Hops[0].Sessions[0] != (status.TracePeer{Peer: "10.1.0.2", State: "Established"}) {
		t.Errorf("step %+v", s)
	}
	got, err = Out(t.Context(), k, picture(), vip.Flow{To: netip.MustParseAddr("192.0.2.2"), From: from})
	if err != nil || got.Reason != status.SourceUnreachable || got.From.IsValid() || !strings.Contains(got.Detail, "from 10.7.0.9") {
		t.Errorf("%+v, %v", got, err)
	}
	for local, want := range map[bool]string{true: "no route to host, from 10.7.0.9", false: "10.7.0.9 is no address of this host"} {
		k["10.7.0.9"] = vip.Lookup{Local: local}
		got, err = Out(t.Context(), k, picture(), vip.Flow{To: netip.MustParseAddr("192.0.2.2"), From: from})
		if err != nil || got.Detail != want {
			t.Errorf("a source that is local %t: %q, %v, want %q", local, got.Detail, err, want)
		}
	}
	if _, err = Out(t.Context(), kernel{}, picture(), vip.Flow{To: from}); err == nil {
		t.Error("an error of the kernel is lost")
	}
}

// TestIn traces packets to a VIP that the kernel takes, or not.
func TestIn(t *testing.T) {
	t.Parallel()
	s := picture()
	v := FindVIP(s, "all")
	v.Interfaces[0].Announced = true
	to := v.Prefix.Addr()
	for name, c := range map[string]struct {
		l    vip.Lookup
		want string
	}{
		"taken":     {vip.Lookup{Local: true, Table: tableLocal, Hops: []vip.Hop{{Interface: "vi0"}}}, ""},
		"not bound": {answer("en1", nil), "not the host's own: packets to it are not taken"},
		"no route":  {vip.Lookup{Unreachable: "no route"}, "no route"},
	} {
		got, err := In(t.Context(), kernel{to.String(): c.l}, s, v, to)
		if err != nil || len(got.Steps) != 3 || got.Direction != status.TraceIn || got.Reason != status.NoSession {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		if !got.Steps[0].Announced || got.Steps[1].Announced || got.Steps[2].Unreachable != c.want || got.Steps[2].Name != "delivery" {
			t.Errorf("%s: steps %+v", name, got.Steps)
		}
	}
	s.VIPs = append(slices.Clone(s.VIPs), status.VIP{Name: "10.7.0.99", Prefix: netip.MustParsePrefix("10.8.0.1/32")})
	for text, want := range map[string]string{"10.0.0.2": "rule", "10.7.0.99": "10.7.0.99", "10.7.0.200": "net", "six": "six", "10.9.9.9": "", "nobody": "", "10.7.0.0/24": "net", "10.0.0.2/32": "rule", "10.7.0.0/25": "", "10.0.0.0/8": ""} {
		got := ""
		if v := FindVIP(s, text); v != nil {
			got = v.Name
		}
		if got != want {
			t.Errorf("FindVIP(%q) is %q, want %q", text, got, want)
		}
	}
}

// TestDestination wants words for each thing that is no destination.
func TestDestination(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"10.0.0.1": "", "fd00::1": "", "fe80::1%en1": "", "10.0.0.0/8": "is a prefix", "host": "no IP address", "": "no IP address",
		"::ffff:10.0.0.1": "write 10.0.0.1", "0.0.0.0": "no host's", "::": "no host's", "fd00::1%en1": "has a zone",
	} {
		_, err := Destination(text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Destination(%q): %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]uint32{"16": 16, "0x10": 16} {
		if got, err := Mark(text); err != nil || got != want {
			t.Errorf("Mark(%q) = %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "red", "0x100000000", "-1"} {
		if _, err := Mark(text); err == nil {
			t.Errorf("Mark(%q) is taken", text)
		}
	}
}
