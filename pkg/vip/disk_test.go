package vip

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"

	"golang.org/x/sys/unix"
)

// hang makes the disk of a state file hang: to open a pipe for writing that nobody reads
// takes for ever. The next one waits for it as long as it is given. What it returns makes
// the disk well again, and waits until it has done what it was to do.
func (f *stateFile) hang(t *testing.T, bound time.Duration) (heal func()) {
	t.Helper()
	if err := unix.Mkfifo(f.draft(), 0o600); err != nil {
		t.Fatal(err)
	}
	f.bound = bound
	return func() {
		t.Helper()
		f.bound = soon
		pipe, err := os.OpenFile(f.draft(), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pipe.Close() })
		netnstest.Until(t, soon, func() error {
			if f.poll(); f.hung != nil {
				return errDisk
			}
			return nil
		})
	}
}

// While the disk hangs nothing counts as recorded but what it has before and after: what
// is to be done without a record may not be done. Nobody waits for it twice.
func TestDiskHangs(t *testing.T) {
	t.Parallel()
	a, b := []sysctlRecord{{Interface: "en1", Key: "a"}}, []sysctlRecord{{Interface: "en1", Key: "b"}}
	open := func(t *testing.T) *stateFile {
		t.Helper()
		f, _, err := openState(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		f.allow, f.bound = func(n int) int { return n }, soon
		return f
	}
	hang := func(t *testing.T, f *stateFile) (heal func()) {
		t.Helper()
		return f.hang(t, 50*time.Millisecond)
	}
	// quickly fails the test if something waits for the disk while that hangs, or does not
	// say that it hangs.
	quickly := func(t *testing.T, f *stateFile, what string, want error, do func() error) {
		t.Helper()
		f.bound = 2 * soon
		began := time.Now()
		if err := do(); !errors.Is(err, want) || time.Since(began) > soon {
			t.Errorf("%s: %v after %s, want %v", what, err, time.Since(began), want)
		}
	}
	t.Run("at a write", func(t *testing.T) {
		t.Parallel()
		f := open(t)
		if err := errors.Join(f.setDevice("vi0", 7), f.setSysctls(a)); err != nil {
			t.Fatal(err)
		}
		heal := hang(t, f)
		if err := f.setSysctls(b); !errors.Is(err, errDisk) {
			t.Errorf("the disk hangs: %v", err)
		}
		for what, do := range map[string]func() error{
			"what it writes":               func() error { return f.setSysctls(b) },
			"what was there":               func() error { return f.setSysctls(a) },
			"something else":               func() error { return f.setDevice("vi0.1", 8) },
			"to drop what is there":        func() error { return f.dropDevice("vi0") },
			"a route":                      func() error { return f.setMain([]mainKey{{Metric: 20}}) },
			"a learned route":              func() error { return f.setLearned([]Learned{{Static: true}}) },
			"that nothing is left of ours": f.remove,
		} {
			quickly(t, f, what, errDisk, do)
		}
		quickly(t, f, "what stays", nil, func() error { return f.setDevice("vi0", 7) })
		quickly(t, f, "that there is a file", nil, f.touch)
		heal()
		if !slices.Equal(f.Sysctls, b) || !slices.Equal(f.Devices, []deviceRecord{{"vi0", 7}}) {
			t.Errorf("what it wrote at last is not known: %+v", f.state)
		}
		quickly(t, f, "what it wrote", nil, func() error { return f.setSysctls(b) })
		quickly(t, f, "what was there, again", nil, func() error { return f.setSysctls(a) })
		again, _, err := openState(filepath.Dir(f.path))
		if err != nil || !slices.Equal(again.Sysctls, a) {
			t.Errorf("read again: %+v, %v", again, err)
		}
	})
	t.Run("at the first write", func(t *testing.T) {
		t.Parallel()
		f := open(t)
		heal := hang(t, f)
		if err := f.touch(); !errors.Is(err, errDisk) {
			t.Errorf("the disk hangs: %v", err)
		}
		quickly(t, f, "that there is a file", errDisk, f.touch)
		heal()
		quickly(t, f, "that there is a file at last", nil, f.touch)
	})
	t.Run("and fails", func(t *testing.T) {
		t.Parallel()
		f := open(t)
		if err := f.setSysctls(a); err != nil {
			t.Fatal(err)
		}
		heal := hang(t, f)
		if err := f.setSysctls(b); !errors.Is(err, errDisk) {
			t.Errorf("the disk hangs: %v", err)
		}
		// What is to be replaced cannot be by then.
		kept := f.path + ".kept"
		if err := errors.Join(os.Rename(f.path, kept), os.Mkdir(f.path, 0o700)); err != nil {
			t.Fatal(err)
		}
		heal()
		if err := errors.Join(os.Remove(f.path), os.Rename(kept, f.path), os.Remove(f.draft())); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(f.Sysctls, a) {
			t.Errorf("what was not written counts: %+v", f.state)
		}
		quickly(t, f, "again", nil, func() error { return f.setSysctls(b) })
	})
}

// A disk that hangs keeps no interface from failing over, and nothing is made that the
// state file does not have.
func TestFailoverWhileTheDiskHangs(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		before := l.dump()
		m := l.manager(t)
		d := desired(vip4)
		d.Learned = []Learned{learn(any4, by("en1", "10.68.1.77", 1), by("en5", "10.68.5.77", 1))}
		d.MainMetric = 20
		converge(t, m, d)
		main := l.mainTable()
		const once = 3 * time.Second
		heal := m.state.hang(t, once)
		other := netip.MustParsePrefix("10.99.0.0/16")
		more := d
		more.Learned = append(slices.Clone(d.Learned), learn(other, by("en5", "10.68.5.77", 1)))
		began := time.Now()
		if _, err := m.Steer(t.Context(), more); !errors.Is(err, errDisk) || time.Since(began) >= 2*once {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		if got := l.mainTable(); got != main {
			t.Errorf("main without a record:\n%s\nbefore:\n%s", got, main)
		}
		m.state.bound = 2 * soon // as long would whoever waited again
		began = time.Now()
		_, err := m.Steer(t.Context(), d.usable(false, true))
		if took := time.Since(began); took > soon {
			t.Errorf("a failover took %s: %v", took, err)
		}
		if got := l.IP("route show table %d", DefaultBaseTable); strings.Contains(got, "en1") || !strings.Contains(got, "en5") {
			t.Errorf("no failover, %v:\n%s", err, got)
		}
		heal()
		converge(t, m, more)
		if got := l.mainTable(); !strings.Contains(got, "10.99.0.0/16") {
			t.Errorf("the disk is well again, and main is\n%s", got)
		}
		if err := m.Restore(t.Context()); err != nil {
			t.Error(err)
		}
		l.same(t, before)
	})
}
