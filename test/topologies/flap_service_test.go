package topologies

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// flapDamping suppresses after three flaps within some seconds, for up to seven
// more.
const flapDamping = "damping: {half_life: 4s, suppress: 2500, reuse: 1200, max_suppress: 7s}"

// flapsToSuppress is how many flaps in a row exceed that.
const flapsToSuppress = 3

// suppress flaps until that is too often, and returns how many flaps it took. More than
// flapsToSuppress are right only on a machine that makes each take longer.
func suppress(t *testing.T, flap func(), suppressed func() bool) (n int) {
	t.Helper()
	for began := time.Now(); ; {
		flap()
		n++
		is := suppressed()
		if is && n >= flapsToSuppress {
			return n
		}
		why := lab.Busy(began, time.Now(), 100*time.Millisecond)
		switch {
		case is:
			t.Fatalf("suppressed after %d flaps, want %d", n, flapsToSuppress)
		case n >= flapsToSuppress && why == "" || n == 5*flapsToSuppress:
			t.Fatalf("not suppressed after %d flaps in %v, want %d: %s", n, time.Since(began), flapsToSuppress, why)
		}
	}
}

// flapping is a service that opens and closes its port. Several VIPs are on it,
// that of listensFor without damping, so that it shows what the daemon has seen.
type flapping struct {
	*modes

	service    netip.AddrPort
	listensFor netip.Prefix
	listener   net.Listener
}

func (f *flapping) open() {
	f.t.Helper()
	since := time.Now()
	l, err := f.host.Listen(f.service)
	if err != nil {
		f.t.Fatal(err)
	}
	f.listener = l
	f.sent(since, announces(f.listensFor))
}

func (f *flapping) close() {
	f.t.Helper()
	since := time.Now()
	if err := f.listener.Close(); err != nil {
		f.t.Fatal(err)
	}
	f.sent(since, withdraws(f.listensFor))
}

func (f *flapping) sent(since time.Time, ok func(lab.Message) bool) {
	f.t.Helper()
	for _, peer := range peersOf(f.listensFor) {
		waitSent(f.t, f.wire, 20*time.Second, "UPDATE of the VIP without damping", peer, since, ok)
	}
}

// times has the service flap and ends with an open port.
func (f *flapping) times(n int) {
	f.t.Helper()
	for range n {
		f.close()
		f.open()
	}
}

// TestFlappingService: a service that flaps is withdrawn for good after as many
// flaps as configured; routers hear no more of it until it has been calm.
func TestFlappingService(t *testing.T) {
	t.Parallel()
	f := &flapping{modes: &modes{t: t, l: lab.Start(t, "vipa")}, listensFor: prefix4(61), service: netip.MustParseAddrPort("10.68.6.61:8061")}
	f.host = f.l.Node("host")
	f.wire = f.host.Capture()
	check := checks("{listen: {port: 8061, address: 10.68.6.61}, interval: 300ms, timeout: 300ms}")
	damped, degraded := prefix4(62), prefix4(63)
	c := hostConfig{vips: []string{
		vipLine("restless", f.listensFor, check, "damping: {enabled: false}"),
		vipLine("damped", damped, check, flapDamping),
		vipLine("degraded", degraded, check, flapDamping, "on_failure: {degrade: {med: 500}}"),
	}}
	// It serves before the daemon starts.
	var err error
	if f.listener, err = f.host.Listen(f.service); err != nil {
		t.Fatal(err)
	}
	// What nothing refers to any more is closed by the garbage collector.
	t.Cleanup(func() { _ = f.listener.Close() })
	f.s = startWith(t, f.l, c)
	quiet := waitQuiet(t, f.wire, peersOf(damped)...)

	flaps := suppress(t, func() { f.times(1) }, f.isDamped)
	suppressed := time.Now()
	f.times(5)
	flaps += 5
	reload(t, f.host, f.s, c)
	waitQuiet(t, f.wire, peersOf(damped)...)
	st, err := f.s.Status()
	if err != nil {
		t.Fatal(err)
	}
	v, err := vipNamed(st, "damped")
	if err != nil {
		t.Fatal(err)
	}
	if !v.Penalty.Suppressed && tooBusy(t, suppressed) {
		return
	}
	if wrong := f.explained(&v, flaps); len(wrong) > 0 {
		if time.Now().After(v.Penalty.Until) && tooBusy(t, suppressed) {
			return
		}
		t.Error(strings.Join(wrong, "\n"))
	}
	tellsOfDamping(t, f.s, quiet, "vip", "vip withheld", "damped")
	until := v.Penalty.Until
	// Whatever happened since it was suppressed, nothing was said of it.
	calm := waitQuiet(t, f.wire, peersOf(damped)...)
	if calm.After(until) {
		if !tooBusy(t, suppressed) {
			t.Errorf("quiet at %v, reuse at %v", calm, until)
		}
		return
	}
	for _, peer := range peersOf(damped) {
		var want, wantDegraded []string
		for range flaps - 5 {
			want = append(want, "-"+damped.String(), "+"+damped.String())
			wantDegraded = append(wantDegraded, "+"+degraded.String()+" med 500", "+"+degraded.String())
		}
		want, wantDegraded = want[:len(want)-1], wantDegraded[:len(wantDegraded)-1]
		if diff := cmp.Diff(want, updatesOf(f.wire, peer, damped, quiet)); diff != "" {
			t.Errorf("%v was sent of the damped VIP (-want +got):\n%s", peer, diff)
		}
		if diff := cmp.Diff(wantDegraded, updatesOf(f.wire, peer, degraded, quiet)); diff != "" {
			t.Errorf("%v was sent of the degraded VIP (-want +got):\n%s", peer, diff)
		}
		t.Logf("%v: %d UPDATEs of the VIP without damping since the other was suppressed, %d of that",
			peer, len(updatesOf(f.wire, peer, f.listensFor, suppressed)), len(updatesOf(f.wire, peer, damped, suppressed)))
	}
	f.reused(damped, "+"+damped.String(), until)
	f.reused(degraded, "+"+degraded.String(), until)
	f.s.WaitStatus(5*time.Second, "all is announced", lab.Established)
	// What is left of the penalty does not make one more flap too many.
	f.close()
	f.s.WaitStatus(5*time.Second, "one more flap", withheld("damped", status.CheckFailed))
	f.open()
	f.s.WaitStatus(5*time.Second, "all is announced", lab.Established)
}

// isDamped tells whether the VIP is damped, once it is clear.
func (f *flapping) isDamped() (is bool) {
	f.t.Helper()
	f.s.WaitStatus(20*time.Second, "damped or announced", func(st *status.Status) error {
		v, err := vipNamed(st, "damped")
		if err != nil {
			return err
		}
		is = v.Reason == status.Damped
		return lab.That(is || v.Announced, "%+v", v)
	})
	return is
}

// tooBusy tells that the machine was too slow since then for a suppression of seconds.
func tooBusy(t *testing.T, since time.Time) bool {
	t.Helper()
	why := lab.Busy(since, time.Now(), 300*time.Millisecond)
	if why != "" {
		t.Logf("the suppression was over too soon, for %s: what it does is not judged", why)
	}
	return why != ""
}

// explained checks what is told of a VIP that is damped, and returns what is wrong.
func (f *flapping) explained(v *status.VIP, flaps int) (wrong []string) {
	f.t.Helper()
	errorf := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	p := v.Penalty
	if !p.Suppressed || p.Flaps != uint64(flaps) || p.Value < 1200 {
		errorf("penalty %+v after %d flaps", p, flaps)
	}
	if want := p.Until.Local().Format(time.TimeOnly); !strings.Contains(v.Detail, want) {
		errorf("detail %q does not tell %s", v.Detail, want)
	}
	if wait := time.Until(p.Until); wait > 7*time.Second {
		errorf("suppressed for %v more", wait)
	}
	out, err := f.s.Command("status", "damped")
	if err != nil || !strings.Contains(out, "damped") || !strings.Contains(out, p.Until.Local().Format(time.TimeOnly)) {
		errorf("status damped: %v\n%s", err, out)
	}
	for series, want := range map[string]string{
		`vipspeaker_vip_suppressed{vip="damped"}`:                 "1",
		`vipspeaker_vip_suppressed{vip="degraded"}`:               "1",
		`vipspeaker_vip_suppressed{vip="restless"}`:               "0",
		`vipspeaker_vip_withheld{reason="damped",vip="damped"}`:   "1",
		`vipspeaker_vip_flaps_total{vip="damped"}`:                fmt.Sprint(flaps),
		`vipspeaker_vip_withheld{reason="damped",vip="degraded"}`: "",
	} {
		if got := metric(f.t, f.host, series); got != want {
			errorf("%s is %q, want %q", series, got, want)
		}
	}
	return wrong
}

// reused checks that the one UPDATE after a suppression comes when it is over.
func (f *flapping) reused(vip netip.Prefix, want string, until time.Time) {
	f.t.Helper()
	// The clocks of the wire and of the status are one; its text has whole
	// milliseconds.
	early := until.Add(-10 * time.Millisecond)
	for _, peer := range peersOf(vip) {
		m := waitSent(f.t, f.wire, 15*time.Second, "used again", peer, early, announces(vip))
		lab.Within(f.t, fmt.Sprintf("%v: the use again after the suppression", peer), until, m.Time.Sub(until), time.Second)
		if diff := cmp.Diff([]string{want}, updatesOf(f.wire, peer, vip, early)); diff != "" {
			f.t.Errorf("%v was sent (-want +got):\n%s", peer, diff)
		}
	}
}

// TestFlapOnce: with the defaults, one restart of a service and one flap of a
// link are acted on, and neither is held against it.
func TestFlapOnce(t *testing.T) {
	t.Parallel()
	m := &modes{t: t, l: lab.Start(t, "vipa")}
	m.host = m.l.Node("host")
	m.wire = m.host.Capture()
	vip := prefix4(64)
	start := func() *lab.Process { return startService(t, m.host, "service", "tcp 10.68.6.64:8064") }
	service := start()
	m.s = startWith(t, m.l, hostConfig{vips: []string{vipLine("once", vip, checks(listenCheck("service", 8064)))}})
	m.sends("restart", vip, func() {
		service.Kill()
		m.s.WaitStatus(5*time.Second, "withheld", withheld("once", status.CheckFailed))
		start()
		m.s.WaitStatus(5*time.Second, "announced", lab.Established)
	}, "-10.68.6.64/32", "+10.68.6.64/32")

	m.host.LinkDown("en1")
	m.s.WaitStatus(5*time.Second, "en1 is down", func(st *status.Status) error {
		return lab.That(flapInterface(st, "en1").Reason == status.InterfaceDown, "%+v", flapInterface(st, "en1"))
	})
	up := time.Now()
	m.host.LinkUp("en1")
	st := m.s.WaitStatus(15*time.Second, "announced", lab.Established)
	t.Logf("en1 carries the VIP %v after it came up", time.Since(up).Round(time.Millisecond))
	v, err := vipNamed(st, "once")
	if err != nil {
		t.Fatal(err)
	}
	for what, p := range map[string]status.Penalty{"vip": v.Penalty, "en1": flapInterface(st, "en1").Penalty} {
		if p.Flaps != 1 || p.Suppressed || p.Value > 1000 {
			t.Errorf("%s: penalty %+v after one flap", what, p)
		}
	}
	if p := flapInterface(st, "en5").Penalty; p != (status.Penalty{}) {
		t.Errorf("en5: penalty %+v without a flap", p)
	}
}

func flapInterface(st *status.Status, name string) status.Interface {
	for i := range st.Interfaces {
		if st.Interfaces[i].Name == name {
			return st.Interfaces[i]
		}
	}
	return status.Interface{}
}
