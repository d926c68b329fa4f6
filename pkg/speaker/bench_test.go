package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// still is a host on which everything is as it should be and all calls return
// at once, so that only the loop's own work is measured.
type still struct {
	in     Inputs
	actual vip.Actual
}

func (s *still) State() *netmon.State       { return s.in.Net }
func (s *still) Watch([]string)             {}
func (s *still) Resyncs() map[string]uint64 { return nil }
func (s *still) Set([]health.Spec)          {}
func (s *still) Results() health.Results    { return s.in.Health }

func (s *still) Steer(context.Context, vip.Desired) (vip.Actual, error)  { return s.actual, nil }
func (s *still) Bind(context.Context, vip.Desired) (vip.Actual, error)   { return s.actual, nil }
func (s *still) Unbind(context.Context, vip.Desired) (vip.Actual, error) { return s.actual, nil }
func (s *still) Restore(context.Context) error                           { return nil }

type stillSessions struct{ state *bgp.State }

func (s stillSessions) Withdraw(bgp.Desired)                             {}
func (s stillSessions) Announce(bgp.Desired)                             {}
func (s stillSessions) State() *bgp.State                                { return s.state }
func (s stillSessions) Stop(context.Context, bgp.StopMode, string) error { return nil }

// manyVIPs is the sample with n checked VIPs, announced on both interfaces.
func manyVIPs(n int) *still {
	in := sample()
	template := in.Config.VIPs[0]
	in.Config.VIPs, in.Bound, in.CheckIDs = nil, nil, map[netip.Prefix][]string{}
	in.BGP.Speakers[0].Announced, in.BGP.Speakers[1].Announced = nil, nil
	for i := range n {
		v := template
		v.Name = fmt.Sprintf("vip%d", i)
		v.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 69, byte(i >> 8), byte(i)}), 32)
		v.PreferredSource = i == 0
		v.Checks = webCheck(v.Prefix.Addr().String())
		in.Config.VIPs = append(in.Config.VIPs, v)
		in.Bound = append(in.Bound, v.Prefix)
		in.CheckIDs[v.Prefix] = checkIDs(&v)
		r := healthyResult(in.CheckIDs[v.Prefix][0])
		r.Expires = time.Now().Add(time.Hour)
		in.Health[r.ID] = r
		for j := range in.BGP.Speakers {
			in.BGP.Speakers[j].Announced = append(in.BGP.Speakers[j].Announced, v.Prefix)
		}
		in.Net.Links[3].Addresses = append(in.Net.Links[3].Addresses, netmon.Address{Prefix: v.Prefix, Usable: true, Protocol: vip.Protocol})
	}
	return &still{in: in, actual: vip.Actual{DeviceName: "vi0", Bound: in.Bound, Read: time.Now()}}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("vips=%d", n), func(b *testing.B) {
			s := manyVIPs(n)
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				if d := Plan(s.in, now); !d.VIPs[n-1].Announced {
					b.Fatalf("withheld: %s", d.VIPs[n-1].Detail)
				}
			}
		})
	}
}

// widen gives a host that many interfaces, on which everything is announced.
func (s *still) widen(interfaces int) {
	in := &s.in
	template, device, rib := in.Config.Interfaces[0], in.Net.Links[3], in.BGP.Speakers[0].Announced
	in.Config.Interfaces, in.Net.Links, in.BGP.Speakers = nil, []netmon.Link{device}, nil
	names := make([]string, interfaces)
	for i := range names {
		n := template
		n.Name = fmt.Sprintf("en%d", i)
		names[i] = n.Name
		n.Peers = slices.Clone(n.Peers)
		n.Peers[0].Address = netip.AddrFrom4([4]byte{10, 70, byte(i), 2})
		in.Config.Interfaces = append(in.Config.Interfaces, n)
		in.Net.Links = append(in.Net.Links, link(100+i, n.Name, fmt.Sprintf("10.70.%d.1/24", i)))
		state := speaking(n.Name, n.Peers[0].Address.String())
		state.Announced = rib
		in.BGP.Speakers = append(in.BGP.Speakers, state)
	}
	for i := range in.Config.VIPs {
		in.Config.VIPs[i].Interfaces = names
	}
}

// BenchmarkPlanWide is one decision with 64 interfaces and 10,000 VIPs: as it is
// normally, when all of them have just been removed, and when the kernel refuses
// half of them, each with an error of its own. The watchdog gives a pass 10 s, and
// it decides at least twice.
func BenchmarkPlanWide(b *testing.B) {
	const vips, interfaces = 10_000, 64
	for name, change := range map[string]func(*Inputs){
		"steady": func(*Inputs) {},
		"removed": func(in *Inputs) {
			in.Lingering = map[netip.Prefix]time.Time{}
			for i := range in.Config.VIPs {
				in.Lingering[in.Config.VIPs[i].Prefix] = time.Now().Add(time.Minute)
			}
			in.Config.VIPs = nil
		},
		"refused": func(in *Inputs) {
			for _, v := range in.Bound[vips/2:] {
				in.BindErrors = append(in.BindErrors, fmt.Sprintf("add address %s to vi0: permission denied", v))
			}
			in.Bound = in.Bound[:vips/2]
		},
	} {
		b.Run(name, func(b *testing.B) {
			s := manyVIPs(vips)
			s.widen(interfaces)
			change(&s.in)
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				if d := Plan(s.in, now); len(d.BGP.Speakers) != interfaces {
					b.Fatalf("%d speakers", len(d.BGP.Speakers))
				}
			}
		})
	}
}

func BenchmarkPass(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("vips=%d", n), func(b *testing.B) {
			s := manyVIPs(n)
			l, err := New(Options{
				Log: slog.New(slog.DiscardHandler), Config: s.in.Config, Signal: NewSignal(),
				Network: s, Checks: s, Kernel: s, Sessions: stillSessions{s.in.BGP},
				NewChecker: func(config.Check) (health.Checker, error) { return nil, nil },
				Publish:    func(*status.Status) {},
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := l.pass(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
