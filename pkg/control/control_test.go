package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"

	"github.com/google/go-cmp/cmp"
)

// daemon is a fake of what stands behind the server.
type daemon struct {
	store    *status.Store
	reloads  atomic.Int64
	mistakes []string
	events   *status.Events
	operator Operator
}

func (d *daemon) reload(context.Context) []string {
	d.reloads.Add(1)
	return d.mistakes
}

// start serves d on a socket in a directory of its own and returns its path.
func start(t *testing.T, d *daemon) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, Options{Log: slog.New(slog.DiscardHandler), Status: d.store.Load, Reload: d.reload, Events: d.events, Operator: d.operator})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("serve:", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is still there after the end: %v", err)
		}
	})
	return path
}

func newClient(t *testing.T, path string) *Client {
	t.Helper()
	c := NewClient(path)
	t.Cleanup(c.Close)
	return c
}

func TestStatusAndReload(t *testing.T) {
	d := &daemon{store: status.NewStore()}
	c := newClient(t, start(t, d))
	if _, err := c.Status(t.Context()); err == nil || err.Error() != "the daemon has just started: no pass has ended yet" {
		t.Errorf("before the first pass: %v", err)
	}
	want := &status.Status{Version: "v1", ASN: 65010, VIPs: []status.VIP{{Name: "vipa"}}}
	d.store.Publish(want)
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != "v1" || got.ASN != 65010 || len(got.VIPs) != 1 || got.VIPs[0].Name != "vipa" {
		t.Errorf("got %+v", got)
	}
	r, err := c.Reload(t.Context())
	if diff := cmp.Diff(&ReloadResult{OK: true}, r); err != nil || diff != "" {
		t.Errorf("reload: %v %s", err, diff)
	}
	d.mistakes = []string{"bgp.asn: -1: must be positive", "vips: required"}
	r, err = c.Reload(t.Context())
	if diff := cmp.Diff(&ReloadResult{Errors: d.mistakes}, r); err != nil || diff != "" {
		t.Errorf("reload of a bad file: %v %s", err, diff)
	}
	if d.reloads.Load() != 2 {
		t.Errorf("%d reloads, want 2", d.reloads.Load())
	}
}

func TestOnlyWhatIsOffered(t *testing.T) {
	d := &daemon{store: status.NewStore(), events: status.NewEvents(1)}
	path := start(t, d)
	client := newClient(t, path).http
	for _, tt := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/v1/reload", 405},
		{"POST", "/v1/status", 405},
		{"DELETE", "/v1/status", 405},
		{"POST", "/v1/events", 405},
		{"GET", "/", 404},
		{"GET", "/v1/../../etc/passwd", 404},
		{"GET", "/v2/status", 404},
	} {
		req, err := http.NewRequest(tt.method, "http://x"+tt.path, strings.NewReader(strings.Repeat("x", 1<<16)))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
			continue
		}
		var f failure
		if err := json.NewDecoder(res.Body).Decode(&f); err != nil || res.StatusCode != tt.code || !strings.HasPrefix(f.Error, tt.method+" /") {
			t.Errorf("%s %s: %d %+v %v, want %d and an error", tt.method, tt.path, res.StatusCode, f, err, tt.code)
		}
		if kind, allow := res.Header.Get("Content-Type"), res.Header.Get("Allow"); kind != "application/json" || (allow != "") != (tt.code == 405) {
			t.Errorf("%s %s: content of the type %q, allowed are %q", tt.method, tt.path, kind, allow)
		}
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	if d.reloads.Load() != 0 {
		t.Error("a request that is not POST /v1/reload caused a reload")
	}
}

func TestSocketMode(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077} {
		old := syscall.Umask(mask)
		path := filepath.Join(t.TempDir(), "run", "control.sock")
		l, err := Listen(t.Context(), path)
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]fs.FileMode{}
		for _, p := range []string{path, filepath.Dir(path)} {
			info, statErr := os.Lstat(p)
			if statErr != nil {
				t.Fatal(statErr)
			}
			got[filepath.Base(p)] = info.Mode()
			if st := info.Sys().(*syscall.Stat_t); int(st.Gid) != os.Getgid() {
				t.Errorf("%s has group %d, want %d", p, st.Gid, os.Getgid())
			}
		}
		want := map[string]fs.FileMode{"control.sock": fs.ModeSocket | 0o660, "run": fs.ModeDir | 0o755}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("umask %o:\n%s", mask, diff)
		}
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(entries) != 1 {
			t.Errorf("the directory holds %v, %v; want the socket alone", entries, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestSocketRemoved: a socket that somebody removes is made anew, with its directory,
// and open streams go on.
func TestSocketRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	path := filepath.Join(dir, "control.sock")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l, err := Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	store, events := status.NewStore(), status.NewEvents(10)
	store.Publish(&status.Status{Version: "v1"})
	said := &lines{}
	done := make(chan error, 1)
	go func() {
		o := Options{Log: slog.New(slog.NewTextHandler(said, nil)), Status: store.Load, Events: events}
		done <- serve(ctx, l, o, 2*time.Millisecond)
	}()
	answers := func() error {
		c := NewClient(path)
		defer c.Close()
		_, err := c.Status(t.Context())
		return err
	}
	waitFor(t, answers)
	seen := make(chan string, 10)
	streaming := newClient(t, path)
	go func() {
		_ = streaming.Events(ctx, 0, true, func(e status.Event) error { seen <- e.Message; return nil })
	}()
	events.Add(status.Event{Message: "before"})
	<-seen
	away := t.TempDir()
	for n, what := range []string{path, dir, path} {
		// In one step: what is half removed may be made anew meanwhile.
		if err := os.Rename(what, filepath.Join(away, fmt.Sprint(n))); err != nil {
			t.Fatal(err)
		}
		waitFor(t, answers)
		waitFor(t, func() error { // it says so after it answers
			if text := said.String(); strings.Count(text, "control socket was removed, made anew") != n+1 {
				return errors.New("log:\n" + text)
			}
			return nil
		})
		if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o660 {
			t.Errorf("%v, %v", info, err)
		}
	}
	events.Add(status.Event{Message: "after"})
	if got := <-seen; got != "after" {
		t.Errorf("the stream goes on with %q", got)
	}
	if text := said.String(); strings.Count(text, "\n") != 3 {
		t.Errorf("log:\n%s", text)
	}

	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is there after the end: %v", err)
	}
}

// TestSocketRestore: only what is gone is made anew, and nothing after the end.
func TestSocketRestore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s := l.(*socket)
	if done, err := s.restore(t.Context()); done || err != nil {
		t.Errorf("while it is there: %v, %v", done, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if done, err := s.restore(t.Context()); done || err != nil {
		t.Errorf("a file in its place: %v, %v", done, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(path); string(text) != "x" {
		t.Errorf("the file is %q, %v", text, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if done, err := s.restore(t.Context()); done || err != nil {
		t.Errorf("after the end: %v, %v", done, err)
	}
}

// TestSocketCannotBeRestored: that is told once, and it is tried again.
func TestSocketCannotBeRestored(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	listener, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s := listener.(*socket)
	defer s.Close() //nolint:errcheck // the end of the test
	at := func(p string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.path = p
	}
	at(filepath.Join(dir, strings.Repeat("x", maxPath))) // too long for a socket
	said := &lines{}
	ctx, cancel := context.WithCancel(t.Context())
	var keeper sync.WaitGroup
	keeper.Go(func() { s.keep(ctx, time.Millisecond, slog.New(slog.NewTextHandler(said, nil))) })
	waitFor(t, func() error {
		if text := said.String(); text == "" {
			return errors.New("nothing is told")
		}
		return nil
	})
	other := filepath.Join(dir, "t")
	at(other)
	waitFor(t, func() error {
		_, err := os.Lstat(other)
		return err
	})
	cancel()
	keeper.Wait()
	text := said.String()
	if strings.Count(text, "\n") > 2 || strings.Count(text, "cannot be made anew") != 1 || !strings.Contains(text, "too long") {
		t.Errorf("log:\n%s", text)
	}
}

// waitFor waits until what gives no error.
func waitFor(t *testing.T, what func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err = what(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// lines is a log for several goroutines.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns what has been written.
func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestNeverOpenToOthers watches the directory tree while sockets are made with
// an open umask: no socket that others may write to is ever in reach.
func TestNeverOpenToOthers(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "control.sock")
	ctx, cancel := context.WithCancel(t.Context())
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for ctx.Err() == nil {
			if info, err := os.Lstat(path); err == nil && info.Mode().Perm() != 0o660 {
				t.Errorf("seen with mode %v", info.Mode())
				return
			}
			private, err := filepath.Glob(filepath.Join(dir, privatePattern))
			if err != nil {
				t.Error(err)
				return
			}
			for _, p := range private {
				if info, err := os.Lstat(p); err == nil && info.Mode().Perm() != 0o700 {
					t.Errorf("private directory seen with mode %v", info.Mode())
					return
				}
			}
		}
	})
	for range 200 {
		l, err := Listen(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	watcher.Wait()
}

func TestListenReplacesOnlyTheDead(t *testing.T) {
	dir := t.TempDir()
	t.Run("stale", func(t *testing.T) {
		path := filepath.Join(dir, "stale.sock")
		dead, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		dead.(*net.UnixListener).SetUnlinkOnClose(false)
		if err = dead.Close(); err != nil {
			t.Fatal(err)
		}
		if err = os.Mkdir(filepath.Join(dir, ".vipspeaker-1"), 0o700); err != nil { // killed while starting
			t.Fatal(err)
		}
		l, err := Listen(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("live", func(t *testing.T) {
		path := start(t, &daemon{store: status.NewStore()})
		_, err := Listen(t.Context(), path)
		want := "control socket " + path + ": another process answers on it; is vipspeaker running already?"
		if err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		if _, err := newClient(t, path).Reload(t.Context()); err != nil {
			t.Error("the live one was harmed:", err)
		}
	})
	t.Run("file", func(t *testing.T) {
		path := filepath.Join(dir, "precious")
		if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Listen(t.Context(), path)
		if err == nil || !strings.Contains(err.Error(), "is not a socket") {
			t.Errorf("error %v", err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != "data" {
			t.Errorf("the file is now %q, %v", data, err)
		}
	})
	t.Run("long", func(t *testing.T) {
		_, err := Listen(t.Context(), filepath.Join(dir, strings.Repeat("x", 120)))
		if err == nil || !strings.Contains(err.Error(), "too long for a Unix socket") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("parent is a file", func(t *testing.T) {
		if _, err := Listen(t.Context(), filepath.Join(dir, "precious", "control.sock")); err == nil {
			t.Error("no error")
		}
	})
}

// TestListenRemovesNothingOfOthers: whatever lies beside the socket stays, also
// when its name looks like one of ours.
func TestListenRemovesNothingOfOthers(t *testing.T) {
	dir := t.TempDir()
	want := []string{".data/precious", ".vipspeaker-1/precious", "precious"}
	for _, name := range want {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("data"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Listen(t.Context(), filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	if err = l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = Listen(t.Context(), filepath.Join(dir, "precious")); err == nil {
		t.Error("a file was replaced")
	}
	var got []string
	err = fs.WalkDir(os.DirFS(dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			got = append(got, path)
		}
		return err
	})
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("left in the directory (-want +got), %v:\n%s", err, diff)
	}
}

// TestCloseKeepsASuccessor: a daemon that ends late does not take away the
// socket of the one that replaced it.
func TestCloseKeepsASuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err = os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

// TestThousandConnections: clients that connect and say nothing, half a line or
// nonsense do not keep an honest one from its answer. Here no time ends them, so they
// would do so for ever.
func TestThousandConnections(t *testing.T) {
	store := status.NewStore()
	store.Publish(&status.Status{Version: "v1"})
	path := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	srv := status.NewServer(newHandler(ctx, Options{Log: slog.New(slog.DiscardHandler), Status: store.Load}), slog.New(slog.DiscardHandler))
	srv.ReadHeaderTimeout, srv.ReadTimeout, srv.WriteTimeout, srv.IdleTimeout = 0, 0, 0, 0
	done := make(chan error, 1)
	go func() { done <- status.Serve(ctx, srv, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for i := range 1000 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		// The server may have closed it already.
		_, _ = io.WriteString(c, []string{"", "GET /v1/st", "\x16\x03\x01\x02\x00", strings.Repeat("A", 1<<15)}[i%4])
	}
	if _, err := newClient(t, path).Status(t.Context()); err != nil {
		t.Fatal(err)
	}
}
