package draft

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// daemon is a user whose directory root writes into.
const daemon = 65534

// place is a directory, which belongs to that user if the tests are root's.
func place(t *testing.T) (dir string, owner uint32) {
	t.Helper()
	dir = t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, daemon, daemon); err != nil {
			t.Fatal(err)
		}
	}
	return dir, ownerOf(t, dir)
}

func ownerOf(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid //nolint:forcetypeassert // it is on Linux
}

// TestOwner: what root writes into a user's directory is that user's, whoever made what
// was there before.
func TestOwner(t *testing.T) {
	dir, owner := place(t)
	path := filepath.Join(dir, "state")
	for _, text := range []string{"first, and long", "second"} {
		if err := Write(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil || string(data) != text {
			t.Errorf("it has %q, %v; want %q", data, err, text)
		}
		if got := ownerOf(t, path); got != owner {
			t.Errorf("it belongs to %d; want %d", got, owner)
		}
		// A draft that root did not come to finish.
		if err := os.WriteFile(Path(path), []byte("longer than what comes next"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lock := filepath.Join(dir, "lock")
	if err := os.WriteFile(lock, []byte("held"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(lock, os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := os.ReadFile(lock)
	if err != nil || string(data) != "held" || ownerOf(t, lock) != owner {
		t.Errorf("the lock has %q, %v, and belongs to %d", data, err, ownerOf(t, lock))
	}
}

// TestLinks: the directory's owner cannot have root write into a file of others.
func TestLinks(t *testing.T) {
	for name, link := range map[string]func(from, to string) error{"symbolic": os.Symlink, "hard": os.Link} {
		dir, _ := place(t)
		other := filepath.Join(t.TempDir(), "shadow")
		if err := os.WriteFile(other, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := ownerOf(t, other)
		path := filepath.Join(dir, "state")
		if err := link(other, Path(path)); err != nil {
			t.Fatal(err)
		}
		if err := Write(path, []byte("mine"), 0o600); err == nil || !strings.Contains(err.Error(), Path(path)) {
			t.Errorf("a %s link: %v", name, err)
		}
		data, err := os.ReadFile(other)
		if err != nil || string(data) != "secret" || ownerOf(t, other) != before {
			t.Errorf("a %s link: %q, %v, and belongs to %d", name, data, err, ownerOf(t, other))
		}
	}
}
