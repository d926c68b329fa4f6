package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
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

// TestHelpFitsTheScreen: no line of any help is longer than 80 columns.
func TestHelpFitsTheScreen(t *testing.T) {
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		help := call(t, append(strings.Fields(cmd.CommandPath())[1:], "--help")...).Stdout
		for line := range strings.Lines(help) {
			if text := strings.TrimSuffix(line, "\n"); utf8.RuneCountInString(text) > 80 {
				t.Errorf("%s: %q", cmd.CommandPath(), text)
			}
		}
		for _, sub := range cmd.Commands() {
			if !sub.Hidden {
				visit(sub)
			}
		}
	}
	visit(newRoot())
}

func TestUsage(t *testing.T) {
	tests := map[string]struct {
		args []string
		code int
		want string // at the begin of stderr
	}{
		"unknown command":   {[]string{"statsu"}, exitUsage, `vipspeaker: unknown command "statsu" for "vipspeaker"` + "; did you mean status?\nTry 'vipspeaker --help'.\n"},
		"not like any":      {[]string{"xyzzy"}, exitUsage, `vipspeaker: unknown command "xyzzy" for "vipspeaker"` + "\nTry 'vipspeaker --help'.\n"},
		"negative wait":     {[]string{"move", "vipa", "--to", "b", "--wait", "-5s"}, exitUsage, "vipspeaker: --wait: -5s: must not be negative; 0 is for not at all\nTry 'vipspeaker move --help'.\n"},
		"unknown below":     {[]string{"vip", "delete"}, exitUsage, `vipspeaker: unknown command "delete" for "vipspeaker vip"; there are add, remove, renew, show` + "\n"},
		"unknown shell":     {[]string{"completion", "zsch"}, exitUsage, `vipspeaker: unknown command "zsch" for "vipspeaker completion"; did you mean zsh?` + "\nTry 'vipspeaker completion --help'.\n"},
		"no such shell":     {[]string{"completion", "foo"}, exitUsage, `vipspeaker: unknown command "foo" for "vipspeaker completion"; there are bash, fish, powershell, zsh` + "\n"},
		"two shells":        {[]string{"completion", "bash", "zsh"}, exitUsage, `vipspeaker: "zsh": completion bash takes no arguments` + "\nTry 'vipspeaker completion bash --help'.\n"},
		"help of nothing":   {[]string{"help", "statsu"}, exitUsage, `vipspeaker: unknown command "statsu" for "vipspeaker"; did you mean status?` + "\nTry 'vipspeaker help --help'.\n"},
		"help unlike any":   {[]string{"help", "xyzzy"}, exitUsage, `vipspeaker: unknown command "xyzzy" for "vipspeaker"` + "\n"},
		"help below":        {[]string{"help", "vip", "delete"}, exitUsage, `vipspeaker: unknown command "delete" for "vipspeaker vip"; there are add, remove, renew, show` + "\n"},
		"help of an end":    {[]string{"help", "drain", "vipa"}, exitUsage, `vipspeaker: unknown command "vipa" for "vipspeaker drain"` + "\n"},
		"unknown flag":      {[]string{"check", "--fix"}, exitUsage, "vipspeaker: unknown flag: --fix\nTry 'vipspeaker check --help'.\n"},
		"too many":          {[]string{"status", "a", "b"}, exitUsage, "vipspeaker: status takes [VIP], not 2 arguments\nTry 'vipspeaker status --help'.\n"},
		"two files":         {[]string{"check", "a", "b"}, exitUsage, "vipspeaker: check takes [FILE], not 2 arguments\nTry 'vipspeaker check --help'.\n"},
		"too few":           {[]string{"trace", "a"}, exitUsage, "vipspeaker: trace takes FROM|to DEST, not 1 argument\n"},
		"bad form":          {[]string{"status", "-o", "xml"}, exitUsage, `vipspeaker: invalid argument "xml" for "-o, --output" flag: want table or json` + "\n"},
		"bad number":        {[]string{"events", "--since", "-1"}, exitUsage, `vipspeaker: --since: "-1": must be a number, 0 or above` + "\n"},
		"bad MED":           {[]string{"vip", "add", "x", "--med", "5000000000"}, exitUsage, `vipspeaker: --med: "5000000000": must be a number from 0 to 4294967295` + "\n"},
		"bad duration":      {[]string{"drain", "x", "--for", "5"}, exitUsage, `vipspeaker: --for: "5": must be a duration such as 30s or 2h` + "\n"},
		"argument for run":  {[]string{"run", "x"}, exitUsage, `vipspeaker: "x": run takes no arguments` + "\n"},
		"no daemon":         {[]string{"--socket", "/nonexistent/s", "status"}, exitBad, "vipspeaker: is vipspeaker running? /nonexistent/s: connect: no such file or directory\n"},
		"no daemon, reload": {[]string{"--socket", "/nonexistent/s", "reload"}, exitBad, "vipspeaker: is vipspeaker running? "},
		"help":              {[]string{"--help"}, exitGood, ""},
		"help of all":       {[]string{"help"}, exitGood, ""},
		"help of a command": {[]string{"help", "status", "source"}, exitGood, ""},
		"help of help":      {[]string{"help", "help"}, exitGood, ""},
		"shells":            {[]string{"completion"}, exitGood, ""},
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

// TestHelpNotWritten: a help that nobody got is no good end, whatever asks for it.
func TestHelpNotWritten(t *testing.T) {
	for _, line := range []string{"", "--help", "help", "help status source", "run --help", "vip", "completion", "completion bash --help"} {
		var stderr bytes.Buffer
		code := run(t.Context(), append([]string{"vipspeaker"}, strings.Fields(line)...), strings.NewReader(""), brokenWriter{}, &stderr)
		if code != exitBad || stderr.String() != "vipspeaker: no space left\n" {
			t.Errorf("%q: code %d, stderr %q", line, code, &stderr)
		}
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
	if diff := cmp.Diff(result{exitBad, "configuration file: its name is empty\n", ""}, call(t, "check", "")); diff != "" {
		t.Errorf("without a name:\n%s", diff)
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

// TestCheckStateOfNothing: where no daemon left anything, that is said, for it proves
// nothing about the next version.
func TestCheckStateOfNothing(t *testing.T) {
	good, dir := write(t, "good.yaml", goodConfig), t.TempDir()
	state, data := filepath.Join(dir, "state"), filepath.Join(dir, "data")
	of := func(args ...string) result {
		return call(t, append([]string{"check", good, "--state-dir", state, "--data-dir", data}, args...)...)
	}
	want := result{Code: exitGood, Stdout: good + ": good: 1 interface, 1 VIP\n"}
	if diff := cmp.Diff(want, of()); diff != "" {
		t.Error(diff)
	}
	const since = ": does not exist: no daemon has used it since the boot; if one runs, give its own\n"
	noData := good + ": note: --data-dir: " + data + ": does not exist: no orders are kept in it\n"
	want.Stderr = good + ": note: --state-dir: " + state + since + noData
	if diff := cmp.Diff(want, of("--state")); diff != "" {
		t.Error(diff)
	}
	var r checkResult
	if err := json.Unmarshal([]byte(of("--state", "-o", "json").Stdout), &r); err != nil || !r.OK || len(r.Notes) != 2 || r.Notes[0].Value != state {
		t.Errorf("%+v, %v", r, err)
	}
	for _, d := range []string{state, data} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	want.Stderr = good + ": note: --state-dir: " + state + ": no daemon has used it; if one runs, give its own\n"
	if diff := cmp.Diff(want, of("--state")); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(filepath.Join(state, lockName), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want.Stderr = ""
	if diff := cmp.Diff(want, of("--state")); diff != "" {
		t.Error(diff)
	}
	data = good
	want.Stderr = good + ": note: --data-dir: " + good + ": is no directory: no orders can be kept in it\n"
	if diff := cmp.Diff(want, of("--state")); diff != "" {
		t.Error(diff)
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
	if want := "another vipspeaker (process 4711) uses the state directory " + dir + ": stop that one first"; err == nil || err.Error() != want {
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
	if l, err = takeLock(t.Context(), dir); err != nil || l.before != (record{pid: 4711, stop: modeDrain}) {
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
		"": {}, "12\n": {pid: 12}, "12 drain\n": {pid: 12, stop: "drain"}, "x": {}, "\x00\x00": {}, "1 2 3": {pid: 1, stop: "2"},
		"12\n/run/a b.sock\n": {pid: 12, socket: "/run/a b.sock"}, "12 drain\n/s\noff\nmore\n": {pid: 12, stop: "drain", socket: "/s", http: "off"},
	} {
		if got := parseRecord(text); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
		if got := parseRecord(want.String()); got != want {
			t.Errorf("%q: read again as %+v", want.String(), got)
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
