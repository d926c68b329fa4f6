package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/hook"
	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"
)

// inFront is a picture with a VIP that is announced with its rank, or not.
func inFront(announced bool) *status.Status {
	return &status.Status{RouterID: netip.MustParseAddr("10.68.1.1"), VIPs: []status.VIP{{
		Prefix: netip.MustParsePrefix("10.68.6.1/32"), Announced: announced, Role: &status.Role{Rank: 1, Failback: "manual"},
	}}}
}

// TestStateFailsOnce: a state directory that takes nothing is one line of log for
// each file, not one for each pass, and so is that it does again.
func TestStateFailsOnce(t *testing.T) {
	dir := t.TempDir()
	var b bytes.Buffer
	k := newKeeper(dir, slog.New(slog.NewTextHandler(&b, nil)))
	passes := func() {
		for range 3 {
			k.keep(inFront(true), netip.Addr{})
			k.write()
		}
	}
	for _, name := range []string{frontsName, routerIDName} {
		if err := os.Mkdir(filepath.Join(dir, name+".new"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	passes()
	for _, name := range []string{frontsName, routerIDName} {
		if err := os.Remove(filepath.Join(dir, name+".new")); err != nil {
			t.Fatal(err)
		}
	}
	passes()
	text := b.String()
	for _, want := range []string{"is a directory", "state kept for the next start again"} {
		if strings.Count(text, want) != 2 {
			t.Errorf("not two lines with %q", want)
		}
	}
	if strings.Count(text, "\n") != 4 || t.Failed() {
		t.Errorf("log:\n%s", text)
	}
	if id, err := readRouterID(dir); err != nil || id != inFront(true).RouterID {
		t.Errorf("router id %v, %v", id, err)
	}
}

// TestStateOnADiskThatHangs: the control loop, which publishes, goes on. A pipe that
// nobody reads stands for the disk: to open it for writing takes for ever.
func TestStateOnADiskThatHangs(t *testing.T) {
	for _, name := range []string{frontsName, routerIDName} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			draft := filepath.Join(dir, name+".new")
			if err := unix.Mkfifo(draft, 0o600); err != nil {
				t.Fatal(err)
			}
			logger := slog.New(slog.DiscardHandler)
			d := &daemon{log: logger, keeper: newKeeper(dir, logger), store: status.NewStore(), hooks: hook.New(hook.Options{Log: logger}), notify: notifier{logger}}
			d.given.Store(&netip.Addr{})
			d.config.Store(&config.Config{})
			ended := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() { ended <- d.keeper.run(ctx) }()
			published := make(chan struct{})
			s := inFront(true)
			go func() {
				defer close(published)
				for range 3 {
					d.publish(s)
				}
			}()
			select {
			case <-published:
			case <-time.After(soon):
				t.Error("publish waits for the disk")
			}
			// The disk is well again: what was wanted last is written before the end.
			d.publish(inFront(false))
			cancel()
			pipe, err := os.OpenFile(draft, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer pipe.Close() //nolint:errcheck // of a test
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, frontsName)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a VIP is kept that is not in front any more: %v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, routerIDName)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRouterIDOfReloads: the file has the identifier that routers know if it was chosen,
// and none that was in force before a reload.
func TestRouterIDOfReloads(t *testing.T) {
	dir := t.TempDir()
	none, first, second := netip.Addr{}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	s := inFront(false)
	chosen := s.RouterID
	k := newKeeper(dir, slog.New(slog.DiscardHandler))
	for _, tt := range []struct {
		what                 string
		inForce, given, want netip.Addr
	}{
		{"chosen", chosen, none, chosen},
		{"not known yet", none, first, chosen},
		{"given by a reload", first, first, none},
		{"the last pass with the former one", first, second, first},
		{"another one given", second, second, none},
		{"none given any more", second, none, second},
		{"given again", second, second, none},
	} {
		s.RouterID = tt.inForce
		k.keep(s, tt.given)
		k.write()
		if id, err := readRouterID(dir); err != nil || id != tt.want {
			t.Errorf("%s: %v in the file, want %v: %v", tt.what, id, tt.want, err)
		}
	}
	// One that a former process chose, and the configuration gives now.
	if err := writeRouterID(dir, chosen); err != nil {
		t.Fatal(err)
	}
	next := newKeeper(dir, slog.New(slog.DiscardHandler))
	next.adopt(chosen, nil)
	next.keep(s, second)
	next.write()
	if id, err := readRouterID(dir); err != nil || id.IsValid() {
		t.Errorf("%v of a former process in the file: %v", id, err)
	}
}

// After a cleanup, as after a drain, a host comes back: it waits with its ranks, and
// chooses its router id anew.
func TestCleanupForgets(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, _ netnstest.NS) {
		dir := t.TempDir()
		for name, text := range map[string]string{frontsName: "10.68.6.1/32\n", routerIDName: "10.68.1.1\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if r := call(t, "cleanup", "--state-dir", dir); r.Code != exitGood {
			t.Errorf("%+v", r)
		}
		for _, name := range []string{frontsName, routerIDName} {
			if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is still there: %v", name, err)
			}
		}
	})
}
