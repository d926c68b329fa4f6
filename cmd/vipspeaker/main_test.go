package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
)

// result is what a command line gave.
type result struct {
	Code           int
	Stdout, Stderr string
}

func call(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), append([]string{"vipspeaker"}, args...), strings.NewReader(""), &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const goodConfig = `
bgp: {asn: 65010}
interfaces: [{name: en1, peers: [{address: 10.68.1.2, asn: 65000}]}]
vips: [{name: vipa, address: 10.68.6.1/32}]
`

const badConfig = `
bgp: {asn: -1}
interfaces: [{name: en1, peers: [{address: 10.68.1.2, asn: 65000}]}]
vips: [{name: vipa, address: 10.68.6.300/32}]
`

func TestUsage(t *testing.T) {
	tests := map[string]struct {
		args []string
		code int
		want string // at the begin of stderr
	}{
		"unknown command":   {[]string{"start"}, exitUsage, `vipspeaker: unknown command "start" for "vipspeaker"` + "\nTry 'vipspeaker --help'.\n"},
		"unknown flag":      {[]string{"check", "--fix"}, exitUsage, "vipspeaker: unknown flag: --fix\nTry 'vipspeaker check --help'.\n"},
		"too many":          {[]string{"status", "a", "b"}, exitUsage, "vipspeaker: accepts at most 1 arg(s), received 2\nTry 'vipspeaker status --help'.\n"},
		"two files":         {[]string{"check", "a", "b"}, exitUsage, "vipspeaker: accepts at most 1 arg(s), received 2\nTry 'vipspeaker check --help'.\n"},
		"bad form":          {[]string{"status", "-o", "xml"}, exitUsage, `vipspeaker: invalid argument "xml" for "-o, --output" flag: want table or json` + "\n"},
		"argument for run":  {[]string{"run", "x"}, exitUsage, `vipspeaker: unknown command "x" for "vipspeaker run"` + "\n"},
		"no daemon":         {[]string{"--socket", "/nonexistent/s", "status"}, exitBad, "vipspeaker: is vipspeaker running? /nonexistent/s: connect: no such file or directory\n"},
		"no daemon, reload": {[]string{"--socket", "/nonexistent/s", "reload"}, exitBad, "vipspeaker: is vipspeaker running? "},
		"help":              {[]string{"--help"}, exitGood, ""},
		"nothing":           {nil, exitGood, ""},
		"completion":        {[]string{"completion", "bash"}, exitGood, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := call(t, tt.args...)
			if got.Code != tt.code || !strings.HasPrefix(got.Stderr, tt.want) {
				t.Errorf("code %d, want %d; stderr %q, want %q", got.Code, tt.code, got.Stderr, tt.want)
			}
			if (tt.code == exitGood) != (got.Stdout != "") {
				t.Errorf("stdout %q", got.Stdout)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	good, bad := write(t, "good.yaml", goodConfig), write(t, "bad.yaml", badConfig)
	want := result{exitGood, good + ": good: 1 interface, 1 VIP\n", ""}
	if diff := cmp.Diff(want, call(t, "check", "--config", good)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, call(t, "check", good)); diff != "" {
		t.Errorf("with the file as argument:\n%s", diff)
	}
	got := call(t, "check", "--config", bad)
	lines := strings.Split(strings.TrimSpace(got.Stdout), "\n")
	if got.Code != exitBad || got.Stderr != "" || len(lines) != 2 ||
		!strings.Contains(lines[0], "bgp.asn") || !strings.Contains(lines[1], "vips[0].address") {
		t.Errorf("want each mistake in a line: %+v", got)
	}
	got = call(t, "check", "--config", bad, "-o", "json")
	var r checkResult
	if err := json.Unmarshal([]byte(got.Stdout), &r); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, e := range r.Errors {
		paths = append(paths, e.Path)
	}
	if got.Code != exitBad || r.OK || r.File != bad || !cmp.Equal(paths, []string{"bgp.asn", "vips[0].address"}) {
		t.Errorf("%d %+v", got.Code, r)
	}
	got = call(t, "check", "--config", "/nonexistent.yaml")
	if got.Code != exitBad || !strings.Contains(got.Stdout, "/nonexistent.yaml: cannot be read: no such file") {
		t.Errorf("%+v", got)
	}
	got = call(t, "check", "--config", good, "-o", "json")
	if got.Code != exitGood || !strings.Contains(got.Stdout, `"errors": []`) {
		t.Errorf("%+v", got)
	}
}

func TestVersion(t *testing.T) {
	got := call(t, "version")
	if got.Code != exitGood || !strings.HasPrefix(got.Stdout, "vipspeaker ") || !strings.Contains(got.Stdout, "\ngo1.") ||
		!strings.Contains(got.Stdout, "\ngobgp v3.") {
		t.Errorf("%+v", got)
	}
	var v versions
	if err := json.Unmarshal([]byte(call(t, "version", "-o", "json").Stdout), &v); err != nil || v.Go == "" {
		t.Errorf("%+v %v", v, err)
	}
}

// TestBadConfigurationTouchesNothing: run ends with every mistake before it
// makes as much as a directory.
func TestBadConfigurationTouchesNothing(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	got := call(t, "run", "--config", write(t, "bad.yaml", badConfig), "--state-dir", state)
	if got.Code != exitBad || !strings.Contains(got.Stderr, "bgp.asn") || !strings.Contains(got.Stderr, "vips[0].address") {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("the state directory was made: %v", err)
	}
}

// TestLock is in a network namespace of its own, because the lock is on that too.
func TestLock(t *testing.T) { netnstest.Run(t, testLock) }

func testLock(t *testing.T, _ netnstest.NS) {
	dir := filepath.Join(t.TempDir(), "state")
	l, err := takeLock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err = l.write(record{pid: 4711}); err != nil {
		t.Fatal(err)
	}
	_, err = takeLock(t.Context(), dir)
	if want := "another vipspeaker (process 4711) uses the state directory " + dir; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	got := call(t, "cleanup", "--state-dir", dir)
	if got.Code != exitBad || !strings.Contains(got.Stderr, "another vipspeaker (process 4711)") {
		t.Errorf("cleanup while a daemon runs: %+v", got)
	}
	if err = l.write(record{pid: 4711, stop: modeDrain}); err != nil {
		t.Fatal(err)
	}
	if err = l.release(); err != nil {
		t.Fatal(err)
	}
	if l, err = takeLock(t.Context(), dir); err != nil || l.before != (record{4711, modeDrain}) {
		t.Errorf("the next holder reads %+v, %v", l.before, err)
	}
	if err = l.write(record{pid: 1}); err != nil { // shorter than the one before
		t.Fatal(err)
	}
	if err = l.release(); err != nil {
		t.Fatal(err)
	}
	if l, err = takeLock(t.Context(), dir); err != nil || l.before != (record{pid: 1}) {
		t.Errorf("the next holder reads %+v, %v", l.before, err)
	}
	if err = l.release(); err != nil {
		t.Fatal(err)
	}
}

func TestParseRecord(t *testing.T) {
	for text, want := range map[string]record{
		"": {}, "12\n": {pid: 12}, "12 drain\n": {12, "drain"}, "x": {}, "\x00\x00": {}, "1 2 3": {1, "2"},
	} {
		if got := parseRecord(text); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func TestTerminalStyle(t *testing.T) {
	tests := map[string]struct {
		env  map[string]string
		want status.Style
	}{
		"usual":         {map[string]string{"TERM": "xterm", "LANG": "de_DE.UTF-8"}, status.Style{Marks: true, Colour: true}},
		"no colour":     {map[string]string{"TERM": "xterm", "LANG": "C.utf8", "NO_COLOR": "1"}, status.Style{Marks: true}},
		"dumb":          {map[string]string{"TERM": "dumb", "LC_CTYPE": "en_US.UTF-8"}, status.Style{Marks: true}},
		"ASCII":         {map[string]string{"TERM": "linux", "LC_ALL": "C", "LANG": "en_US.UTF-8"}, status.Style{Colour: true}},
		"nothing known": {nil, status.Style{}},
	}
	for name, tt := range tests {
		if got := terminalStyle(func(k string) string { return tt.env[k] }); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
	if got := styleOf(&bytes.Buffer{}, func(string) string { return "UTF-8" }); got != (status.Style{}) {
		t.Errorf("a pipe got %+v", got)
	}
}

func TestRouterIDFile(t *testing.T) {
	dir := t.TempDir()
	if id, err := readRouterID(dir); err != nil || id.IsValid() {
		t.Errorf("without a file: %v, %v", id, err)
	}
	want := netip.MustParseAddr("10.68.1.1")
	if err := writeRouterID(dir, want); err != nil {
		t.Fatal(err)
	}
	if id, err := readRouterID(dir); err != nil || id != want {
		t.Errorf("%v, %v; want %v", id, err, want)
	}
	for _, junk := range []string{"", "fe80::1", "10.68"} {
		if err := os.WriteFile(filepath.Join(dir, routerIDName), []byte(junk), 0o600); err != nil {
			t.Fatal(err)
		}
		if id, err := readRouterID(dir); err != nil || id.IsValid() {
			t.Errorf("%q: %v, %v", junk, id, err)
		}
	}
}
