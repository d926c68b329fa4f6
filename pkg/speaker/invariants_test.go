package speaker

import (
	"net/netip"
	"slices"
	"testing"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// checkBehind looks at what is behind the links: probes and BFD.
func checkBehind(t *testing.T, in *Inputs, d *Desired) {
	t.Helper()
	watched := map[Session]bool{}
	for _, s := range d.BFD {
		watched[Session{s.Interface, bare(s.Peer)}] = true
	}
	for i := range d.Interfaces {
		n, c := &d.Interfaces[i], &in.Config.Interfaces[i]
		link, _ := in.Net.Link(n.Name)
		checkAttachment(t, in, d, n)
		for j := range n.Peers {
			peer := &n.Peers[j]
			b := peer.config.BFD
			wanted := b != nil && link.Healthy() && peer.LocalAddress.IsValid()
			if peer.Address.IsValid() && watched[Session{n.Name, bare(peer.Address)}] != wanted {
				t.Errorf("BFD with %s on %s: wanted %t", peer.Address, n.Name, !wanted)
			}
			s, _ := bfdState(in.BFD, n.Name, peer)
			switch {
			case peer.Wanted && !n.Usable:
				t.Errorf("session with %s on %s, which is unusable", peer.Address, n.Name)
			case peer.held != "" && b == nil:
				t.Errorf("%s: %s without BFD", peer.Address, peer.held)
			case peer.held != "" && s.RemoteStatus == bfd.AdminDown && s.Status != bfd.Up && s.Error == "":
				t.Errorf("%s: %s although the router does not want BFD", peer.Address, peer.held)
			case peer.held == "" && wanted && b.Required && s.Status != bfd.Up && (s.RemoteStatus != bfd.AdminDown || s.Error != ""):
				t.Errorf("%s: nothing is held although BFD is required and %s", peer.Address, s.Status)
			case len(peer.held) > ceaseBytes:
				t.Errorf("%s: %q is too long", peer.Address, peer.held)
			}
		}
		// While one of a family is left, none that is dead is used.
		for _, list := range [][]netip.Addr{d.Kernel.Interfaces[i].Gateways, d.Kernel.Interfaces[i].Routers} {
			checkNextHops(t, n, list)
		}
		for _, g := range c.Gateways {
			if !slices.ContainsFunc(d.Kernel.Interfaces[i].Gateways, func(o netip.Addr) bool { return o.Is4() == g.Is4() }) {
				t.Errorf("%s: no gateway of the family of %s is left", n.Name, g)
			}
		}
	}
	for _, v := range d.VIPs {
		for _, pl := range v.Interfaces {
			for _, peer := range pl.Peers {
				if pl.Interface == status.TopLevel {
					continue
				}
				if n := d.Interfaces[slices.IndexFunc(d.Interfaces, func(n Interface) bool { return n.Name == pl.Interface })]; slices.ContainsFunc(n.Peers, func(p Peer) bool {
					return p.Address == peer && p.held != ""
				}) {
					t.Errorf("%s counts as announced to %s, whose session BFD ends", v.Name, peer)
				}
			}
		}
	}
}

func checkNextHops(t *testing.T, n *Interface, list []netip.Addr) {
	t.Helper()
	dead := func(a netip.Addr) bool {
		return slices.ContainsFunc(n.Failures, func(f status.Failure) bool {
			return f.Layer != "path" && (f.Target == a.String() || f.Target == a.String()+"%"+n.Name)
		})
	}
	for _, a := range list {
		for _, o := range list {
			if dead(a) && !dead(o) && a.Is4() == o.Is4() {
				t.Errorf("%s: %s is dead and a next hop beside %s", n.Name, a, o)
			}
		}
	}
}

// checkAttachment: an interface whose link is well is unusable for its probes if
// and only if they say so.
func checkAttachment(t *testing.T, in *Inputs, d *Desired, n *Interface) {
	t.Helper()
	answered, silent, path := 0, 0, 0
	for _, b := range d.Probes {
		r := in.Health[b.ID]
		known := r.Expires.After(t0) && (r.Verdict != health.Unhealthy || r.Streak >= b.Failures || !r.Passed.IsZero())
		switch {
		case b.Interface != n.Name || !known:
		case b.Layer == "path" && r.Verdict == health.Unhealthy:
			path++
		case b.Layer == "attachment" && r.Verdict == health.Unhealthy:
			silent++
		case b.Layer == "attachment" && r.Verdict == health.Healthy:
			answered++
		}
	}
	attached := answered > 0 || silent == 0
	if n.Usable && (!attached || path > 0) {
		t.Errorf("%s is usable: %d answer, %d are silent, %d paths are dead", n.Name, answered, silent, path)
	}
	if n.Reason == status.InterfaceAttachment && attached || n.Reason == status.InterfacePath && path == 0 {
		t.Errorf("%s is unusable for %s: %d answer, %d are silent, %d paths are dead", n.Name, n.Reason, answered, silent, path)
	}
	if link, _ := in.Net.Link(n.Name); len(n.Failures) < silent+path && link.Healthy() && n.Reason != status.InterfaceAbsent {
		t.Errorf("%s: %d failures are shown of %d", n.Name, len(n.Failures), silent+path)
	}
}

// checkDamping: the last resort is never taken away, and nothing is suppressed
// that was not told to be.
func checkDamping(t *testing.T, in *Inputs, d *Desired) {
	t.Helper()
	others := slices.ContainsFunc(d.Interfaces, func(n Interface) bool {
		name := n.Name
		if len(n.Peers) == 0 {
			name = status.TopLevel
		}
		s, _ := in.BGP.Speaker(name)
		return n.Usable && slices.ContainsFunc(s.Peers, func(p bgp.PeerState) bool { return p.State == bgp.Established })
	})
	for i, n := range d.Interfaces {
		damped := n.Reason == status.Damped
		if damped != n.Penalty.Suppressed || damped && (!others || !in.Config.Interfaces[i].Damping.Enabled || !n.Penalty.Until.After(t0)) {
			t.Errorf("%s: %s, %+v, others: %t", n.Name, n.Reason, n.Penalty, others)
		}
	}
	for i, v := range d.VIPs {
		c := &in.Config.VIPs[i]
		if v.Penalty.Suppressed && (!c.Damping.Enabled || v.Wanted && !v.Degraded || !v.Penalty.Until.After(t0)) {
			t.Errorf("%s: wanted=%t degraded=%t, %+v", v.Name, v.Wanted, v.Degraded, v.Penalty)
		}
		if v.Degraded && c.Degrade == nil {
			t.Errorf("%s is degraded and has nothing for it", v.Name)
		}
		for _, s := range d.BGP.Speakers {
			for _, p := range s.Paths {
				if p.Prefix == v.Prefix && (p.Prepend == 7) != v.Degraded {
					t.Errorf("%s: degraded=%t with %d prepends", v.Name, v.Degraded, p.Prepend)
				}
			}
		}
	}
}

// checkAgain: looking twice at the same changes nothing, counts nothing twice,
// and leaves the history alone that it was given.
func checkAgain(t *testing.T, in *Inputs, d *Desired) {
	t.Helper()
	again := *in
	again.History = d.History
	second := Plan(again, t0)
	if diff := cmp.Diff(*d, second, planCompare...); diff != "" {
		t.Errorf("the second look differs (-first +second):\n%s", diff)
	}
}
