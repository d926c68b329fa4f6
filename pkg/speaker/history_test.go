package speaker

import (
	"net/netip"
	"testing"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
	"vipspeaker/pkg/netmon"
	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// film shows a world to Plan again and again, as the loop does.
type film struct {
	in  Inputs
	now time.Time
}

func (f *film) look(after time.Duration, change func(*Inputs)) Desired {
	f.now = f.now.Add(after)
	if change != nil {
		change(&f.in)
	}
	// Results live as long as nobody changes them.
	for id, r := range f.in.Health {
		r.Expires = f.now.Add(time.Minute)
		f.in.Health[id] = r
	}
	d := Plan(f.in, f.now)
	f.in.History = d.History
	return d
}

// comeback is one way in which an interface goes and comes back.
type comeback struct {
	name      string
	want      status.Reason
	gone, own func(*Inputs) // what happens, and its end
}

func comebacks() []comeback {
	addresses := sampleNet().Links[0].Addresses
	return []comeback{
		{"link down", status.InterfaceDown, func(in *Inputs) { in.Net.Links[0].Up = false }, func(in *Inputs) { in.Net.Links[0].Up = true }},
		{"carrier", status.InterfaceCarrier, func(in *Inputs) { in.Net.Links[0].Running = false }, func(in *Inputs) { in.Net.Links[0].Running = true }},
		{"address", status.InterfaceAddress, func(in *Inputs) { in.Net.Links[0].Addresses = nil }, func(in *Inputs) { in.Net.Links[0].Addresses = addresses }},
		{"deleted and made again", status.InterfaceAbsent, func(in *Inputs) { in.Net.Links = in.Net.Links[1:] }, func(in *Inputs) {
			in.Net.Links = append([]netmon.Link{link(77, "en1", "10.68.1.1/24")}, in.Net.Links...)
		}},
		{"renamed", status.InterfaceAbsent, func(in *Inputs) { in.Net.Links[0].Name = "en1x" }, func(in *Inputs) { in.Net.Links[0].Name = "en1" }},
		{"moved to another namespace", status.InterfaceAbsent, func(in *Inputs) { in.Net.Links[0].Name = "gone" }, func(in *Inputs) {
			in.Net.Links[0] = link(2, "en1", "10.68.1.1/24")
		}},
		{
			"attachment", status.InterfaceAttachment, func(in *Inputs) { in.Health["attachment/en1/10.68.1.2"] = silent("") },
			func(in *Inputs) { in.Health["attachment/en1/10.68.1.2"] = answers("") },
		},
		{"path", status.InterfacePath, func(in *Inputs) { in.Health["path/en1/192.0.2.1"] = silent("") }, func(in *Inputs) {
			in.Health["path/en1/192.0.2.1"] = answers("")
		}},
	}
}

// Every way back waits for the hold-up, and every way out ends the sessions.
func TestHoldUpOfEveryReturn(t *testing.T) {
	t.Parallel()
	for _, tt := range comebacks() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &film{in: edit(probing), now: t0}
			f.in.Config.Interfaces[0].PathProbe = &config.PathProbe{Target: addr("192.0.2.1"), Failures: 3}
			expect := func(when string, d Desired, want status.Reason) {
				t.Helper()
				n := d.Interfaces[0]
				if n.Reason != want || n.Usable != (want == "") || len(d.speaker("en1").Peers) != map[bool]int{true: 1}[want == ""] {
					t.Errorf("%s: %q (%s) with %d sessions, want %q", when, n.Reason, n.Detail, len(d.speaker("en1").Peers), want)
				}
				if d.Kernel.Interfaces[0].Leg() != (want == "") {
					t.Errorf("%s: leg %t", when, d.Kernel.Interfaces[0].Leg())
				}
			}
			expect("at the first look", f.look(0, nil), "")
			expect("gone", f.look(time.Second, tt.gone), tt.want)
			expect("still gone", f.look(time.Hour, nil), tt.want)
			d := f.look(time.Second, tt.own)
			expect("back", d, status.InterfaceHoldUp)
			if want := f.now.Add(2 * time.Second); !d.Recheck.Equal(want) {
				t.Errorf("recheck at %s, want %s", d.Recheck, want)
			}
			expect("shortly before the end", f.look(1999*time.Millisecond, nil), status.InterfaceHoldUp)
			expect("gone again", f.look(0, tt.gone), tt.want)
			expect("back again", f.look(time.Second, tt.own), status.InterfaceHoldUp)
			expect("it begins anew", f.look(1999*time.Millisecond, nil), status.InterfaceHoldUp)
			expect("over", f.look(time.Millisecond, nil), "")
		})
	}
}

// What was not there when the process began is held when it comes, as it comes
// from nowhere; what was there is not.
func TestHoldUpAtTheStart(t *testing.T) {
	t.Parallel()
	f := &film{in: sample(), now: t0}
	links := f.in.Net.Links
	if d := f.look(0, func(in *Inputs) { in.Net.Links = links[1:] }); !d.Interfaces[1].Usable || d.Interfaces[0].Reason != status.InterfaceAbsent {
		t.Errorf("first look: %+v", d.Interfaces)
	}
	if d := f.look(0, func(in *Inputs) { in.Net.Links = links }); d.Interfaces[0].Reason != status.InterfaceHoldUp {
		t.Errorf("it comes: %+v", d.Interfaces[0])
	}
}

// A link that is replaced by another of its name between two looks has lost its
// sockets and its sessions.
func TestReplacedLink(t *testing.T) {
	t.Parallel()
	f := &film{in: edit(bfdPeers), now: t0}
	f.look(0, nil)
	d := f.look(time.Second, func(in *Inputs) { in.Net.Links[0].Index = 77 })
	if n := d.Interfaces[0]; n.Reason != status.InterfaceAbsent || len(d.speaker("en1").Peers) != 0 {
		t.Errorf("replaced: %q %s", n.Reason, n.Detail)
	}
	if len(d.BFD) != 1 || !d.Recheck.Equal(f.now.Add(replacedPause)) {
		t.Errorf("%d BFD sessions, recheck at %s", len(d.BFD), d.Recheck)
	}
	if d = f.look(0, nil); d.Interfaces[0].Usable {
		t.Error("usable at another look that nobody acted on")
	}
	if d = f.look(replacedPause, nil); len(d.BFD) != 2 || d.Interfaces[0].Reason != status.InterfaceHoldUp {
		t.Errorf("at the next look: %q", d.Interfaces[0].Reason)
	}
	if d = f.look(2*time.Second, nil); !d.Interfaces[0].Usable {
		t.Errorf("after the hold-up: %q", d.Interfaces[0].Reason)
	}
}

// A reload forgets what is gone and excuses what it changes itself, and penalties
// stay.
func TestHistoryAfterReload(t *testing.T) {
	t.Parallel()
	nothing := func(config.Check) (health.Checker, error) { return nil, nil }
	made := func(c *config.Config) *setup {
		s, err := newSetup(c, nothing)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	flapped := Penalty{Value: 1000, At: t0, Flaps: 1}
	with := edit(bfdPeers).Config
	seen := History{
		Interfaces: map[string]InterfaceHistory{"en1": {Open: true, Index: 2, Penalty: flapped}, "en5": {Open: true}, "en9": {}},
		VIPs:       map[netip.Prefix]VIPHistory{prefix("10.68.6.1/32"): {Open: true, Penalty: flapped}, prefix("10.68.6.9/32"): {}},
		BFD:        map[Session]BFDHistory{{"en1", addr("10.68.1.2")}: {Downs: 1}, {"en5", addr("10.68.5.2")}: {Downs: 2}, {"en1", addr("10.68.1.9")}: {}},
	}
	next := edit(bfdPeers).Config
	next.Interfaces[0].HoldUp, next.Interfaces[0].Damping.Reuse = time.Hour, 7
	next.Interfaces[1].Peers[0].BFD = nil
	next.VIPs[0].Checks = webCheck("10.68.6.2")
	want := History{
		Interfaces: map[string]InterfaceHistory{"en1": {Open: true, Index: 2, Penalty: flapped}, "en5": {Open: true, Excused: true}},
		VIPs:       map[netip.Prefix]VIPHistory{prefix("10.68.6.1/32"): {Penalty: flapped}},
		BFD:        map[Session]BFDHistory{{"en1", addr("10.68.1.2")}: {Downs: 1}},
		Local:      map[netip.Addr]netip.Addr{},
		Roles:      map[netip.Prefix]RoleHistory{},
	}
	if diff := cmp.Diff(want, seen.after(made(with), made(next)), compare...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	next.VIPs[0].Checks, next.VIPs[0].ChecksMode = webCheck("10.68.6.1"), "any"
	if got := seen.after(made(with), made(next)); got.VIPs[prefix("10.68.6.1/32")].Open {
		t.Error("another checks_mode is not excused")
	}
}
