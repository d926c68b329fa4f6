package vip

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/test/netnstest"
)

// What another version wrote is either understood, and kept, or refused and left as
// it is.
func TestStateFileOfAnotherVersion(t *testing.T) {
	tests := map[string]struct {
		text, err string
	}{
		"this one":             {`{"version": 1, "devices": [{"name": "vi0", "index": 7}]}`, ""},
		"another key":          {`{"version": 1, "later": {"a": [1]}, "devices": [{"name": "vi0", "index": 7}]}`, ""},
		"another version":      {`{"version": 2, "devices": "all"}`, "its version is 2, this one knows 1"},
		"an older version":     {`{"version": 0}`, "its version is 0, this one knows 1"},
		"another field":        {`{"version": 1, "devices": [{"name": "vi0", "index": 7, "netns": "x"}]}`, `unknown field "netns"`},
		"another field, later": {`{"version": 1, "sysctls": [{"interface": "en1", "unit": "ms"}]}`, `unknown field "unit"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, stateName)
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			check := CheckState(dir)
			f, _, err := openState(dir)
			if tt.err != "" {
				for _, got := range []error{check, err} {
					if got == nil || !strings.Contains(got.Error(), tt.err) || !strings.Contains(got.Error(), path) {
						t.Errorf("error %v, want %q and the path", got, tt.err)
					}
				}
				if text, readErr := os.ReadFile(path); string(text) != tt.text || f != nil {
					t.Errorf("the file is %s, %v now, and read as %+v", text, readErr, f)
				}
				return
			}
			if check != nil || err != nil || !f.exists || len(f.Devices) != 1 {
				t.Fatalf("%+v, %v, %v", f, check, err)
			}
			f.allow = func(n int) int { return n }
			if err = f.setDevice("vi0.1", 8); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path)
			if err != nil || strings.Contains(tt.text, "later") != strings.Contains(string(text), "later") {
				t.Errorf("written: %s, %v", text, err)
			}
			again, _, err := openState(dir)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(f.state, again.state); diff != "" {
				t.Errorf("read again (-written +read):\n%s", diff)
			}
		})
	}
}

// Damage is told by a check, and nothing to check is good.
func TestCheckState(t *testing.T) {
	dir := t.TempDir()
	if err := CheckState(dir); err != nil {
		t.Errorf("without a file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateName), []byte(`{"version": "one"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CheckState(dir); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("error %v", err)
	}
}

// A process does not start over the state of a version that it does not know, and
// what that one holds stays.
func TestNewRefusesAnotherVersion(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		l := newLab(t, ns)
		m := l.manager(t)
		converge(t, m, desired(vip4, vip6))
		m.Close()
		before := l.dump()
		path := filepath.Join(l.dir, stateName)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		newer := strings.Replace(string(text), `"version": 1`, `"version": 2`, 1)
		if err = os.WriteFile(path, []byte(newer), 0o600); err != nil {
			t.Fatal(err)
		}
		if next, err := New(Options{StateDir: l.dir}); err == nil || !strings.Contains(err.Error(), "its version is 2, this one knows 1") {
			t.Errorf("New: %v, %v", next, err)
		}
		if kept, err := os.ReadFile(path); err != nil || string(kept) != newer {
			t.Errorf("the file is %s now, %v", kept, err)
		}
		if diff := cmp.Diff(before, l.dump()); diff != "" {
			t.Errorf("the host is not as it was (-before +now):\n%s", diff)
		}
	})
}

// TestStateFileTooLarge: whatever somebody made of the file, it is damaged, and it is not
// read into memory.
func TestStateFileTooLarge(t *testing.T) {
	dir := t.TempDir()
	f := newStateFile(dir)
	if err := os.WriteFile(f.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(f.path, 1<<40); err != nil { // a hole, but for its size
		t.Fatal(err)
	}
	if err := CheckState(dir); err == nil || !strings.Contains(err.Error(), "is damaged: it is larger than") {
		t.Error(err)
	}
}
