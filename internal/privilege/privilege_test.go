package privilege_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vipspeaker/internal/privilege"
)

// childEnv makes the test binary print its capabilities instead of testing.
const childEnv = "PRIVILEGE_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// child prints the effective set before and after Raise, of every thread.
func child() int {
	before, err := effective()
	if err == nil {
		err = privilege.Raise()
	}
	after, err2 := effective()
	if err != nil || err2 != nil {
		_, _ = fmt.Fprintln(os.Stderr, err, err2)
		return 1
	}
	_, err = fmt.Fprintln(os.Stdout, before, "->", after)
	if err != nil {
		return 1
	}
	return 0
}

// effective returns the different effective sets of all threads.
func effective() (string, error) {
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return "", err
	}
	var sets []string
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			return "", err
		}
		_, rest, _ := strings.Cut(string(b), "CapEff:\t")
		set, _, _ := strings.Cut(rest, "\n")
		if !strings.Contains(strings.Join(sets, " "), set) {
			sets = append(sets, set)
		}
	}
	return strings.Join(sets, " "), nil
}

// A user who is not root and executes the marked file has no effective
// capability until Raise, and then in every thread those that the container
// leaves it. What it does not leave keeps nobody from executing the file.
func TestMarkedFileRaises(t *testing.T) {
	t.Parallel()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// The other user must be able to reach the file.
	dir := t.TempDir()
	if err = os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "child")
	if err = os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if err = privilege.MarkFile(exe); err != nil {
		t.Fatal(err)
	}

	for name, tt := range map[string]struct {
		bounding, want string
	}{
		"all":           {"+all", "0000000000801400"},
		"no priority":   {"+all,-sys_nice", "0000000000001400"},
		"bind only":     {"-all,+net_bind_service", "0000000000000400"},
		"none of these": {"+all,-net_admin,-net_bind_service,-sys_nice", "0000000000000000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set="+tt.bounding, exe)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), childEnv+"=1")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if got, want := strings.TrimSpace(string(out)), "0000000000000000 -> "+tt.want; got != want {
				t.Errorf("effective capabilities %q, want %q", got, want)
			}
		})
	}
}

// A file that is marked is not written to again.
func TestMarkFileTwice(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	var stat [2]unix.Stat_t
	for i := range stat {
		if err := privilege.MarkFile(file); err != nil {
			t.Fatal(err)
		}
		if err := unix.Stat(file, &stat[i]); err != nil {
			t.Fatal(err)
		}
	}
	if stat[0].Ctim != stat[1].Ctim {
		t.Errorf("second MarkFile changed the file: %v then %v", stat[0].Ctim, stat[1].Ctim)
	}
	if err := privilege.MarkFile(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("MarkFile of an absent file: no error")
	}
}
