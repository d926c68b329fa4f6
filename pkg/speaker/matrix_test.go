package speaker

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// TestReloadMatrix is what each key of the configuration changes of the orders to
// BGP. What is not named here stays as it is: no session and no path is touched.
func TestReloadMatrix(t *testing.T) {
	t.Parallel()
	en1 := func(c *config.Config) *config.Interface { return &c.Interfaces[0] }
	peer := func(c *config.Config) *config.Peer { return &c.Interfaces[0].Peers[0] }
	remote := func(c *config.Config) *config.Peer { return &c.Peers[0] }
	vip := func(c *config.Config) *config.VIP { return &c.VIPs[0] }
	five := uint32(5)
	const (
		toPeer   = "en1 peer 10.68.1.2 "
		toRemote = "top-level peers peer 10.255.0.9 "
	)
	speakers := []string{"en1", "en5", status.TopLevel}
	of := func(names []string, what ...string) (list []string) {
		for _, n := range names {
			for _, w := range what {
				list = append(list, n+" "+w)
			}
		}
		return list
	}
	ofPaths := func(what string) []string {
		return []string{"en1 path 10.68.6.1/32 0 " + what, "en5 path 10.68.6.1/32 0 " + what, "top-level peers path 10.68.6.1/32 1 " + what, "top-level peers path 10.68.6.1/32 2 " + what}
	}
	for name, tt := range map[string]struct {
		change func(*config.Config)
		want   []string
	}{
		"bgp.asn":                           {func(c *config.Config) { c.BGP.ASN = 65011 }, of(speakers, "ASN")},
		"bgp.listen_port":                   {func(c *config.Config) { c.BGP.ListenPort = 1179 }, of(speakers[:2], "ListenPort")},
		"bgp.graceful_restart.enabled":      {func(c *config.Config) { c.BGP.GracefulRestart.Enabled = false }, of(speakers, "GracefulRestart")},
		"bgp.graceful_restart.restart_time": {func(c *config.Config) { c.BGP.GracefulRestart.RestartTime = time.Minute }, of(speakers, "GracefulRestart")},
		"bgp.graceful_restart.long_lived":   {func(c *config.Config) { c.BGP.GracefulRestart.LongLived = time.Hour }, of(speakers, "GracefulRestart")},
		"virtual_interface":                 {func(c *config.Config) { c.VirtualInterface.Name = "vi1" }, nil},
		"interfaces: one more": {func(c *config.Config) {
			c.Interfaces = append(c.Interfaces, config.Interface{Name: "en7", Peers: []config.Peer{{Address: addr("10.1.7.2"), ASN: 65000}}})
		}, []string{"en7"}},
		"interfaces: one less": {func(c *config.Config) {
			c.Interfaces, c.VIPs[0].Interfaces = c.Interfaces[:1], []string{"en1"}
		}, []string{"en5", "top-level peers path 10.68.6.1/32 2"}},
		"interfaces[].hold_up":                            {func(c *config.Config) { en1(c).HoldUp = time.Hour }, nil},
		"interfaces[].gateway":                            {func(c *config.Config) { en1(c).Gateways = []netip.Addr{addr("10.68.1.2")} }, nil},
		"interfaces[].gateway_probe":                      {func(c *config.Config) { en1(c).GatewayProbe.Enabled = true }, nil},
		"interfaces[].path_probe":                         {func(c *config.Config) { en1(c).PathProbe = &config.PathProbe{Target: addr("192.0.2.1")} }, nil},
		"interfaces[].damping":                            {func(c *config.Config) { en1(c).Damping.Enabled = true }, nil},
		"peers[].asn":                                     {func(c *config.Config) { peer(c).ASN = 65001 }, []string{toPeer + "ASN"}},
		"peers[].asn: external":                           {func(c *config.Config) { peer(c).ASN, peer(c).External = 0, true }, []string{toPeer + "ASN", toPeer + "External"}},
		"peers[].port":                                    {func(c *config.Config) { peer(c).Port = 1179 }, []string{toPeer + "Port"}},
		"peers[].password_file":                           {func(c *config.Config) { peer(c).Password = "secret" }, []string{toPeer + "Password"}},
		"peers[].ttl_security":                            {func(c *config.Config) { peer(c).TTLSecurity = true }, []string{toPeer + "TTLSecurity"}},
		"peers[].timers.hold_time":                        {func(c *config.Config) { peer(c).Timers.HoldTime = time.Minute }, []string{toPeer + "HoldTime"}},
		"peers[].timers.keepalive":                        {func(c *config.Config) { peer(c).Timers.Keepalive = time.Second }, []string{toPeer + "Keepalive"}},
		"peers[].timers.connect_time":                     {func(c *config.Config) { peer(c).Timers.ConnectRetry = time.Minute }, []string{toPeer + "ConnectRetry"}},
		"peers[].max_prefixes":                            {func(c *config.Config) { peer(c).MaxPrefixes = 99 }, []string{toPeer + "MaxPrefixes"}},
		"peers[].passive":                                 {func(c *config.Config) { peer(c).Passive = true }, []string{toPeer + "Passive"}},
		"peers[].router_id":                               {func(c *config.Config) { peer(c).RouterID = addr("10.0.0.9") }, []string{toPeer + "RouterID"}},
		"peers[].families":                                {func(c *config.Config) { peer(c).IPv4, peer(c).IPv6 = true, false }, []string{toPeer + "Families"}},
		"peers[].families: both":                          {func(c *config.Config) { peer(c).IPv4, peer(c).IPv6 = true, true }, nil},
		"peers[].announce":                                {func(c *config.Config) { peer(c).Announce.MED = &five }, []string{toPeer + "Attributes"}},
		"peers[].announce.local_pref of an external peer": {func(c *config.Config) { peer(c).Announce.LocalPref = &five }, nil},
		"peers[].bfd":                                     {func(c *config.Config) { peer(c).BFD = &config.BFD{} }, nil},
		"peers: one more on the interface": {func(c *config.Config) {
			more := *peer(c)
			more.Address = addr("10.68.1.3")
			en1(c).Peers = append(en1(c).Peers, more)
		}, []string{"en1 peer 10.68.1.3"}},
		"top-level peers[].local_address": {func(c *config.Config) { remote(c).LocalAddress = addr("10.68.5.1") }, []string{toRemote + "LocalAddress"}},
		"top-level peers[].ttl":           {func(c *config.Config) { remote(c).TTL = 5 }, []string{toRemote + "MultihopTTL"}},
		"top-level peers[].add_path":      {func(c *config.Config) { remote(c).AddPath = false }, []string{toRemote + "AddPath"}},
		"top-level peers[].local_pref":    {func(c *config.Config) { remote(c).Announce.LocalPref = &five }, []string{toRemote + "Attributes"}},
		"top-level peers[].origin":        {func(c *config.Config) { remote(c).Announce.Origin = new(uint8) }, []string{toRemote + "Attributes"}},
		"top-level peers: none":           {func(c *config.Config) { c.Peers = nil }, []string{"top-level peers"}},
		"vips: one more, not bound yet": {func(c *config.Config) {
			c.VIPs = append(c.VIPs, config.VIP{Name: "new", Prefix: prefix("10.68.6.9/32"), Interfaces: []string{"en1"}})
		}, of(speakers, "Reflected")},
		"vips[].name":             {func(c *config.Config) { vip(c).Name = "other" }, nil},
		"vips[].preferred_source": {func(c *config.Config) { vip(c).PreferredSource = false }, nil},
		"vips[].interfaces": {func(c *config.Config) { vip(c).Interfaces = []string{"en1"} }, []string{
			"en5 path 10.68.6.1/32 0", "top-level peers path 10.68.6.1/32 2",
		}},
		"vips[].announce.med":         {func(c *config.Config) { vip(c).Announce.MED = &five }, ofPaths("MED")},
		"vips[].announce.local_pref":  {func(c *config.Config) { vip(c).Announce.LocalPref = &five }, ofPaths("LocalPref")},
		"vips[].announce.prepend":     {func(c *config.Config) { vip(c).Announce.Prepend = 1 }, ofPaths("Prepend")},
		"vips[].announce.origin":      {func(c *config.Config) { vip(c).Announce.Origin = 2 }, ofPaths("Origin")},
		"vips[].announce.communities": {func(c *config.Config) { vip(c).Announce.Communities = []uint32{1} }, ofPaths("Communities")},
		"vips[].announce.large_communities": {func(c *config.Config) {
			vip(c).Announce.LargeCommunities = []config.LargeCommunity{{Global: 1}}
		}, ofPaths("LargeCommunities")},
		"vips[].announce.extended_communities": {func(c *config.Config) {
			vip(c).Announce.ExtendedCommunities = []config.ExtendedCommunity{{1}}
		}, ofPaths("ExtendedCommunities")},
		"vips[].on_failure, while the checks pass": {func(c *config.Config) { vip(c).Degrade = &config.Degrade{Prepend: 3} }, nil},
		"vips[].damping":                  {func(c *config.Config) { vip(c).Damping.Enabled = true }, nil},
		"vips[].checks: none":             {func(c *config.Config) { vip(c).Checks = nil }, nil},
		"vips[].checks_mode":              {func(c *config.Config) { vip(c).ChecksMode = "any" }, nil},
		"egress.exclude":                  {func(c *config.Config) { c.Egress.Exclude = []netip.Prefix{prefix("192.0.2.0/24")} }, nil},
		"host.sysctls":                    {func(c *config.Config) { c.Host.Sysctls = "off" }, nil},
		"shutdown.mode":                   {func(c *config.Config) { c.Shutdown.Mode = "restart" }, nil},
		"shutdown.graceful_shutdown":      {func(c *config.Config) { c.Shutdown.GracefulShutdown = time.Second }, nil},
		"http, control and log":           {func(c *config.Config) { c.HTTP.Listen, c.Control.Socket, c.Log.Level = "x", "y", "z" }, nil},
		"bgp.timers, which peers inherit": {func(c *config.Config) { c.BGP.Timers.HoldTime = time.Minute }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := Plan(edit(reflector), t0)
			in := edit(reflector)
			tt.change(in.Config)
			after := Plan(in, t0)
			got := differences(&before.BGP, &after.BGP)
			slices.Sort(tt.want)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// differences names the fields that differ between two orders to BGP, and the
// speakers, peers and paths that only one of them has. Reasons for what is not
// there are none.
func differences(a, b *bgp.Desired) []string {
	before, after := fields(a), fields(b)
	all := maps.Clone(before)
	maps.Copy(all, after)
	var list []string
	for key := range all {
		x, was := before[key]
		y, is := after[key]
		if was != is || !reflect.DeepEqual(x, y) {
			list = append(list, key)
		}
	}
	// Of what came or went, its name is enough.
	for key, v := range all {
		_, was := before[key]
		if _, is := after[key]; v == nil && was != is {
			list = slices.DeleteFunc(list, func(s string) bool { return strings.HasPrefix(s, key+" ") })
		}
	}
	slices.Sort(list)
	return list
}

// fields are the fields of an order by name, and a nil for each thing that has
// some.
func fields(d *bgp.Desired) map[string]any {
	out := map[string]any{}
	add := func(name string, v any, without ...string) {
		out[name] = nil
		value := reflect.ValueOf(v)
		for i := range value.NumField() {
			if field := value.Type().Field(i).Name; !slices.Contains(without, field) {
				out[name+" "+field] = value.Field(i).Interface()
			}
		}
	}
	for _, s := range d.Speakers {
		add(s.Name, s, "Name", "Peers", "Paths", "DownReason", "DownReasons")
		for _, p := range s.Peers {
			add(s.Name+" peer "+p.Address.String(), p, "Address")
		}
		for _, p := range s.Paths {
			add(fmt.Sprintf("%s path %s %d", s.Name, p.Prefix, p.ID), p, "Prefix", "ID")
		}
	}
	return out
}

// What is configured for a VIP, for its failure and for a peer reaches BGP.
func TestAttributes(t *testing.T) {
	t.Parallel()
	med, pref, lower, egp, igp := uint32(5), uint32(200), uint32(50), uint8(1), uint8(0)
	in := edit(reflector)
	v := &in.Config.VIPs[0]
	v.Announce = config.Announce{
		Communities: []uint32{1}, LargeCommunities: []config.LargeCommunity{{Global: 1}}, ExtendedCommunities: []config.ExtendedCommunity{{1}},
		MED: &med, LocalPref: &pref, Prepend: 1, Origin: 2,
	}
	v.Degrade = &config.Degrade{
		LocalPref: &lower, Prepend: 3, Communities: []uint32{1, 2}, LargeCommunities: []config.LargeCommunity{{Global: 2}},
		ExtendedCommunities: []config.ExtendedCommunity{{2}, {1}}, Origin: &egp,
	}
	announce := config.PeerAnnounce{
		MED: &lower, LocalPref: &lower, Prepend: 2, Communities: []uint32{7}, LargeCommunities: []config.LargeCommunity{{Global: 7}},
		ExtendedCommunities: []config.ExtendedCommunity{{7}}, Origin: &igp,
	}
	in.Config.Interfaces[0].Peers[0].Announce, in.Config.Peers[0].Announce = announce, announce
	want := bgp.Path{
		Prefix: v.Prefix, MED: &med, LocalPref: &pref, Prepend: 1, Origin: 2, Communities: []uint32{1},
		LargeCommunities: []bgp.LargeCommunity{{Global: 1}}, ExtendedCommunities: []bgp.ExtendedCommunity{{1}},
	}
	attributes := bgp.Attributes{
		MED: &lower, Prepend: 2, Communities: []uint32{7}, LargeCommunities: []bgp.LargeCommunity{{Global: 7}},
		ExtendedCommunities: []bgp.ExtendedCommunity{{7}}, Origin: &igp,
	}
	expect := func(when string, external, internal *uint32) {
		t.Helper()
		d := Plan(in, t0)
		if diff := cmp.Diff([]bgp.Path{want}, d.speaker("en1").Paths, compare...); diff != "" {
			t.Errorf("%s: paths (-want +got):\n%s", when, diff)
		}
		for name, pref := range map[string]*uint32{"en1": external, status.TopLevel: internal} {
			want := attributes
			want.LocalPref = pref
			if diff := cmp.Diff(&want, d.speaker(name).Peers[0].Attributes, compare...); diff != "" {
				t.Errorf("%s: attributes of %s (-want +got):\n%s", when, name, diff)
			}
		}
	}
	expect("healthy", nil, &lower)
	r := in.Health[vipID()]
	r.Verdict, r.Passed = "unhealthy", t0
	in.Health[vipID()] = r
	want.LocalPref, want.Prepend, want.Communities, want.Origin = &lower, 4, []uint32{1, 2}, egp
	want.LargeCommunities = append(want.LargeCommunities, bgp.LargeCommunity{Global: 2})
	want.ExtendedCommunities = append(want.ExtendedCommunities, bgp.ExtendedCommunity{2})
	expect("degraded", nil, &lower)
	in.Overrides.Leaving = true
	none := uint32(0)
	want.LocalPref, want.Communities = &none, []uint32{1, 2, 0xffff0000}
	expect("about to go", nil, nil)
}
