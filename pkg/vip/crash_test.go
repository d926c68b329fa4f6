package vip

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// foreign gives the host things of other owners that look like ours.
func (l *lab) foreign(tb testing.TB) {
	tb.Helper()
	l.IP("addr add 10.68.6.77/32 dev lo")
	l.IP("-6 addr add fd68:6::77/128 dev lo nodad")
	l.IP("rule add pref 32090 from 10.68.6.77 lookup 100")
	l.IP("rule add pref 32150 from 10.68.6.78 lookup 100")
	l.IP("-6 rule add pref 32150 from fd68:6::78 lookup 100")
	l.IP("route add 10.77.0.0/16 via 10.68.1.2 table 100 proto static")
	l.IP("route add 10.78.0.0/16 via 10.68.1.2 proto 68")
	l.IP("route add local 10.79.0.0/16 dev lo table local")
	netnstest.Until(tb, soon, func() error {
		if s := l.IP("-6 route show table local"); !strings.Contains(s, "fd68:6::77") {
			return errors.New(s)
		}
		return nil
	})
}

// life is a daemon's: start, source on, en1 fails and comes back, a VIP goes and
// comes, a clean stop.
func life(ctx context.Context, m *Manager, d Desired) (last Actual) {
	with := func(d Desired) {
		last, _ = attempt(ctx, m, d)
	}
	with(d)
	with(d)
	with(d.usable(false, true))
	with(d)
	less := d
	less.VIPs = d.VIPs[:2]
	with(less)
	with(d)
	_ = m.Restore(ctx)
	return last
}

func crashDesired() Desired {
	d := desired(vip4, vip6, netip.MustParsePrefix("10.68.6.200/32"), netip.MustParsePrefix("10.80.0.0/24"))
	d.Fallbacks = []Fallback{
		{Local: netip.MustParseAddr("fd68:1::1"), Peer: netip.MustParseAddr("fd68:1::2"), First: true},
		{Local: netip.MustParseAddr("10.68.1.1"), Peer: netip.MustParseAddr("10.68.1.2"), First: true},
	}
	d.Learned = []Learned{learn(any4, by("en1", "10.68.1.77", 1), by("en5", "10.68.5.77", 1))}
	d.MainMetric = 20
	return d
}

// A process that is killed after one of its writes leaves a host that the next one
// makes right, or restores exactly; what others own stays as it is. Each run takes
// some writes at random, every fifth on average; the long test takes all.
func TestKilledAfterSomeWrites(t *testing.T) {
	const most = 9
	for _, end := range []string{"restored", "continued"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			sweep(t, end == "continued", rand.IntN(most), func() int { return 1 + rand.IntN(most) })
		})
	}
}

// sweep kills a process after from writes, then after as many more as next tells,
// up to the end of its life. The next process goes on, or only restores the host.
func sweep(t *testing.T, goesOn bool, from int, next func() int) {
	t.Helper()
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		l.foreign(t)
		d := crashDesired()
		before := l.dump()
		m := l.manager(t)
		converge(t, m, d)
		converge(t, m, d)
		want := l.ours()
		if err := m.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.same(t, before)
		if !goesOn {
			want = ""
		}
		kills := 1
		for n := from; !l.killAfter(t, n, d, before, want) && !t.Failed(); n += next() {
			kills++
		}
		t.Logf("killed %d times", kills)
	})
}

// killAfter lets a process do n writes of its life and then sees to it that the
// next one converges to the wanted state (if given), and that cleanup restores
// the host. It tells whether the life has no more writes than n.
func (l *lab) killAfter(t *testing.T, n int, d Desired, before, want string) (finished bool) {
	t.Helper()
	left := n
	killed := l.manager(t)
	killed.conn.gate = func(k int) int {
		k = min(k, left)
		left -= k
		return k
	}
	life(t.Context(), killed, d)
	killed.Close()

	next := l.manager(t)
	if want != "" {
		converge(t, next, d)
		a := converge(t, next, d)
		if len(a.Bound) != len(d.VIPs) {
			t.Errorf("after %d writes: bound %v", n, a.Bound)
		}
		if diff := cmp.Diff(want, l.ours()); diff != "" {
			t.Errorf("after %d writes the next process does not converge (-want +got):\n%s", n, diff)
		}
	}
	if err := next.Restore(t.Context()); err != nil {
		t.Errorf("after %d writes: restore: %v", n, err)
	}
	next.Close()
	l.same(t, before)
	if t.Failed() {
		t.Logf("killed after %d writes", n)
	}
	return left > 0
}

// The sources that a killed process left in effect are told, and adopted as
// they are, without a moment in which they are off.
func TestAdoption(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		first := l.manager(t)
		if first.Adopted() || len(first.AdoptedSources()) != 0 {
			t.Error("a first start adopts")
		}
		d := desired(vip4, vip6)
		converge(t, first, d)
		first.Close()
		info, err := os.Stat(filepath.Join(l.dir, stateName))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("state file: %v, %v", info, err)
		}

		next := l.manager(t)
		if !next.Adopted() {
			t.Error("nothing is adopted")
		}
		if got := next.AdoptedSources(); !slices.Equal(got, []netip.Addr{vip4.Addr(), vip6.Addr()}) {
			t.Errorf("adopted sources %v", got)
		}
		if a := converge(t, next, d); a.Writes != 0 || len(a.Repaired) != 0 || len(a.Sources) != 4 {
			t.Errorf("adoption wrote %d, repaired %v, sources %v", a.Writes, a.Repaired, a.Sources)
		}
	})
}

// A damaged state file costs the former sysctls, and nothing else.
func TestDamagedStateFile(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		before := l.dump()
		d := desired(vip4, vip6)
		d.Sysctls = SysctlOff
		first := l.manager(t)
		converge(t, first, d)
		first.Close()
		if err := os.WriteFile(filepath.Join(l.dir, stateName), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		next := l.manager(t)
		if !next.Adopted() {
			t.Error("nothing is adopted")
		}
		converge(t, next, d)
		if err := next.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}

// Without a place for the state file nothing is changed.
func TestNoStateFileNoChange(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		before := l.dump()
		m := l.manager(t)
		if err := os.RemoveAll(l.dir); err != nil {
			t.Fatal(err)
		}
		if _, err := attempt(t.Context(), m, desired(vip4)); err == nil || !strings.Contains(err.Error(), "state file") {
			t.Errorf("error %v, want one about the state file", err)
		}
		l.same(t, before)
		if _, err := New(Options{Log: discard(), StateDir: "/proc/nowhere"}); err == nil {
			t.Error("a state directory that cannot be made is accepted")
		}
	})
}

// A stop needs no room on the disk: what is undone is not written down first.
func TestRestoreWithFullStateDirectory(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		before := l.dump()
		if err := unix.Mount("tmpfs", l.dir, "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(l.dir, 0) })
		m := l.manager(t)
		converge(t, m, desired(vip4, vip6))
		filler := filepath.Join(l.dir, "filler")
		if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("the directory is not full: %v", err)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}
