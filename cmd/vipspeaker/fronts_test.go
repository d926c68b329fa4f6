package main

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vipspeaker/pkg/status"
)

// TestFrontsFailOnce: a state directory that takes nothing is one line of log, not
// one for each pass, and so is that it does again.
func TestFrontsFailOnce(t *testing.T) {
	dir := t.TempDir()
	var b bytes.Buffer
	d := &daemon{log: slog.New(slog.NewTextHandler(&b, nil)), stateDir: dir}
	s := &status.Status{VIPs: []status.VIP{{
		Prefix: netip.MustParsePrefix("10.68.6.1/32"), Announced: true, Role: &status.Role{Rank: 1, Failback: "manual"},
	}}}
	draft := filepath.Join(dir, frontsName+".new")
	if err := os.Mkdir(draft, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		d.tellFronts(d.keepFronts(s))
	}
	if err := os.Remove(draft); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		d.tellFronts(d.keepFronts(s))
	}
	if text := b.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "is a directory") || !strings.Contains(text, "roles kept for the next start again") {
		t.Errorf("log:\n%s", text)
	}
}
