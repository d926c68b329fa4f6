package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/control"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"
)

// replacement starts a daemon that is to replace the one that runs.
func (l *lab) replacement(t *testing.T, args ...string) *program {
	t.Helper()
	return start(t, nil, nil, append([]string{"run", "--replace", "--config", l.config, "--data-dir", "/run/data"}, args...)...)
}

// serves waits until the status is that of a daemon which began at least then.
func (l *lab) serves(t *testing.T, p *program, since time.Time) *status.Status {
	t.Helper()
	var s *status.Status
	netnstest.Until(t, soon, func() (err error) {
		if s, err = picture(t); err == nil && s.StartedAt.Before(since) {
			err = fmt.Errorf("the daemon has been started at %v, before %v", s.StartedAt, since)
		}
		return err
	})
	l.ready(t, p)
	return s
}

// TestReplace: a running daemon ends in good order and leaves everything, although
// its shutdown mode is drain; the next one takes over, and the one after it; and
// where none runs, one starts.
func TestReplace(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		d := l.replacement(t)
		l.ready(t, d)
		for _, socket := range []string{defaultSocket, "/run/elsewhere.sock", defaultSocket} {
			began := time.Now()
			next := l.replacement(t, "--socket", socket) // the one before is found by its lock
			if code := d.wait(t); code != exitGood || strings.Contains(d.log.String(), "level=ERROR") {
				t.Errorf("the one before ended with %d:\n%s", code, &d.log)
			}
			if !l.holds() {
				t.Error("the VIPs were unbound")
			}
			for _, want := range []string{"msg=replaced", `mode=restart`} {
				if !strings.Contains(d.log.String(), want) {
					t.Errorf("the one before does not say %s:\n%s", want, &d.log)
				}
			}
			if socket == defaultSocket {
				l.serves(t, next, began)
			} else {
				netnstest.Until(t, soon, func() error {
					if got := call(t, "status", "--socket", socket); got.Code != exitGood {
						return fmt.Errorf("%+v", got)
					}
					return nil
				})
			}
			next.says(t, "adopted=true")
			d = next
		}
		if got := call(t, "cleanup", "--if-stopped"); got.Code != exitBad {
			t.Errorf("cleanup beside a daemon: %+v", got)
		}
		if code := d.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		l.same(t)
	})
}

// TestReplaceWithoutGracefulRestart: routes cannot be left then, so the one that is
// replaced withdraws and unbinds as its configuration says.
func TestReplaceWithoutGracefulRestart(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, strings.Replace(labConfig, "65010}", "65010, graceful_restart: {enabled: false}}", 1))
		d, began := l.daemon(t), time.Now()
		next := l.replacement(t)
		if code := d.wait(t); code != exitGood || !strings.Contains(d.log.String(), "mode=drain") {
			t.Errorf("the one before ended with %d:\n%s", code, &d.log)
		}
		l.serves(t, next, began)
		for _, want := range []string{"adopted=false", "withdraws its VIPs and unbinds them", "the new configuration has no bgp.graceful_restart"} {
			next.says(t, want)
		}
		if code := next.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		l.same(t)
	})
}

// TestReplaceRefused: whatever keeps the new one from taking over is found, and said
// with what would be right, before the running one is told anything.
func TestReplaceRefused(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		d := l.daemon(t)
		before, err := picture(t)
		if err != nil {
			t.Fatal(err)
		}
		put := func(path, text string) string {
			t.Helper()
			if putErr := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); putErr != nil {
				t.Fatal(putErr)
			}
			return path
		}
		lockFile := filepath.Join(defaultStateDir, lockName)
		mine, err := os.ReadFile(lockFile)
		if err != nil {
			t.Fatal(err)
		}
		stranger, err := net.Listen("unix", "/run/stranger.sock")
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()                          //nolint:errcheck // the end of the test
		go http.Serve(stranger, http.NotFoundHandler()) //nolint:errcheck // until it is closed
		taken, err := net.Listen("tcp", "127.0.0.1:9180")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close() //nolint:errcheck // the end of the test
		for _, tt := range []struct {
			name string
			args []string
			lock string // what the lock file says instead
			want string
		}{
			{"bad configuration", []string{"--config", put("/run/bad.yaml", labConfig+"bogus: 1\n")}, "", "bogus"},
			{"a port that is taken", []string{"--config", put("/run/http.yaml", labConfig+"http: {listen: '127.0.0.1:9180'}\n")}, "", "http.listen 127.0.0.1:9180: "},
			{"a socket that is taken", []string{"--socket", "/run/stranger.sock"}, "", "/run/stranger.sock: another process answers on it"},
			{"newer orders", []string{"--data-dir", filepath.Dir(put("/run/newer/orders.json", `{"version": 2}`))}, "", "version 2 was written by another vipspeaker"},
			{"another state directory", []string{"--state-dir", "/run/other"}, "", "it has another state directory than /run/other: give its --state-dir"},
			{"no socket", []string{"--socket", "/run/new.sock"}, fmt.Sprintf("%d\n/run/nobody.sock\n", d.cmd.Process.Pid), "is vipspeaker running? /run/nobody.sock"},
			{"a stranger's socket", []string{"--socket", "/run/new.sock"}, fmt.Sprintf("%d\n/run/stranger.sock\n", d.cmd.Process.Pid), "/run/stranger.sock: GET /v1/status: 404 Not Found; is it a vipspeaker of this version?"},
		} {
			if tt.lock != "" {
				put(lockFile, tt.lock)
			}
			got := l.replacement(t, tt.args...)
			if code := got.wait(t); code != exitBad || !strings.Contains(got.log.String(), tt.want) {
				t.Errorf("%s: code %d, want %q:\n%s", tt.name, code, tt.want, &got.log)
			}
			put(lockFile, string(mine))
			if after, askErr := picture(t); askErr != nil || !after.StartedAt.Equal(before.StartedAt) || after.Stopping {
				t.Errorf("%s: the running one: %+v, %v", tt.name, after, askErr)
			}
		}
		state := filepath.Join(defaultStateDir, "vip.json")
		text, err := os.ReadFile(state)
		if err != nil {
			t.Fatal(err)
		}
		newer := strings.Replace(string(text), `"version": 1`, `"version": 2`, 1)
		put(state, newer)
		got := l.replacement(t)
		if code := got.wait(t); code != exitBad || !strings.Contains(got.log.String(), "its version is 2, this one knows 1") {
			t.Errorf("newer state: code %d:\n%s", code, &got.log)
		}
		if got := call(t, "check", "--state", l.config); got.Code != exitBad || !strings.Contains(got.Stdout, "its version is 2, this one knows 1") {
			t.Errorf("check of newer state: %+v", got)
		}
		if kept, err := os.ReadFile(state); err != nil || string(kept) != newer {
			t.Errorf("the state is %s now, %v", kept, err)
		}
		put(state, string(text))
		if got := call(t, "check", "--state", "--data-dir", "/run/data", l.config); got.Code != exitGood {
			t.Errorf("check of its own state: %+v", got)
		}
		if code := d.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		l.same(t)
	})
}

// TestReplaceOfAService: who belongs to a service manager says what to do instead,
// and who is another network's is not ended by one that reaches its socket.
func TestReplaceOfAService(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		d := l.daemon(t, "NOTIFY_SOCKET=/run/nobody-listens")
		got := l.replacement(t)
		if code := got.wait(t); code != exitBad || !strings.Contains(got.log.String(), "it belongs to a service manager") {
			t.Errorf("code %d:\n%s", code, &got.log)
		}
		c := control.NewClient(defaultSocket)
		defer c.Close()
		if h, err := c.HandOver(t.Context(), control.Successor{Network: "net:[1]"}); err == nil || !strings.Contains(err.Error(), "is not that of the process that is to replace it (net:[1])") {
			t.Errorf("from another network: %+v, %v", h, err)
		}
		if code := d.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		l.same(t)
	})
}

// TestReplaceInTime: one that does not end is named with what to do, and one that
// another process has replaced meanwhile is, too.
func TestReplaceInTime(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, _ netnstest.NS) {
		f := &flags{stateDir: "/run/state", dataDir: "/run/data"}
		cfg, err := config.Parse([]byte(labConfig), "yaml", "c.yaml")
		if err != nil {
			t.Fatal(err)
		}
		l, err := takeLock(t.Context(), f.stateDir)
		if err != nil {
			t.Fatal(err)
		}
		defer l.release() //nolint:errcheck // the end of the test
		const socket = "/run/state/it.sock"
		store, faster := status.NewStore(), false
		store.Publish(&status.Status{Version: "v9", Peers: []status.Peer{{Found: "gateway", Negotiated: &status.Negotiated{}}}})
		listener, err := control.Listen(t.Context(), socket)
		if err != nil {
			t.Fatal(err)
		}
		go control.Serve(t.Context(), listener, control.Options{ //nolint:errcheck // ends with the test
			Log: slog.New(slog.DiscardHandler), Status: store.Load,
			Handover: func(context.Context, control.Successor) (*control.Handover, error) {
				if faster {
					if writeErr := l.write(record{pid: 1, socket: socket}); writeErr != nil {
						return nil, writeErr
					}
				}
				return &control.Handover{Mode: modeRestart, Within: "10ms"}, nil
			},
		})
		for _, want := range []string{
			fmt.Sprintf("the running vipspeaker (process %d) did not end within 5.01s of its order to", os.Getpid()),
			"another one was faster: another vipspeaker (process 1)",
		} {
			if err = l.write(record{pid: os.Getpid(), socket: socket}); err != nil {
				t.Fatal(err)
			}
			var said safeBuffer
			_, err = replace(t.Context(), f, cfg, slog.New(slog.NewTextHandler(&said, nil)))
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %s", err, want)
			}
			if !strings.Contains(said.String(), "routers drop the routes") || !strings.Contains(said.String(), "peers=gateway") {
				t.Errorf("no word of the router without graceful restart:\n%s", &said)
			}
			faster = true
		}
	})
}

// TestOrdersOutliveReplacement: what was drained stays so.
func TestOrdersOutliveReplacement(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		d, began := l.daemon(t), time.Now()
		if got := call(t, "drain", "vipa", "--reason", "upgrade"); got.Code != exitGood {
			t.Fatalf("%+v", got)
		}
		next := l.replacement(t)
		if code := d.wait(t); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		s := l.serves(t, next, began)
		if v := s.VIPs[0]; v.Drain == nil || v.Drain.Reason != "upgrade" {
			t.Errorf("%+v", v)
		}
		var kept orders.Orders
		text, err := os.ReadFile(filepath.Join("/run/data", orders.Name))
		if err == nil {
			err = json.Unmarshal(text, &kept)
		}
		if err != nil || len(kept.Drains) != 1 {
			t.Errorf("%s, %v", text, err)
		}
		if code := next.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
	})
}
