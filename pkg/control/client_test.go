package control

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestClientSaysWhatToDo(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "control.sock")
	_, err := newClient(t, missing).Status(t.Context())
	want := "is vipspeaker running? " + missing + ": connect: no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	denied := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)}
	want = "only root and the group of /run/vipspeaker/control.sock may talk with vipspeaker: connect: permission denied"
	if got := NewClient("/run/vipspeaker/control.sock").explain(denied).Error(); got != want {
		t.Errorf("error %s, want %s", got, want)
	}
	other := filepath.Join(t.TempDir(), "other.sock")
	l, err := net.Listen("unix", other)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") })}
	t.Cleanup(func() { _ = srv.Close() })
	go func() { _ = srv.Serve(l) }()
	if _, err = newClient(t, other).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "not the answer of a vipspeaker") {
		t.Errorf("error %v", err)
	}
}

// TestClientOfAFrozenDaemon: one that is stopped, with SIGSTOP or by a lack of
// CPU, takes connections and says nothing, or stops in the middle.
func TestClientOfAFrozenDaemon(t *testing.T) {
	silent := filepath.Join(t.TempDir(), "silent.sock")
	deaf, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = deaf.Close() })
	half := filepath.Join(t.TempDir(), "half.sock")
	l, err := net.Listen("unix", half)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "{")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})}
	t.Cleanup(func() { _ = srv.Close() })
	go func() { _ = srv.Serve(l) }()
	for _, path := range []string{silent, half} {
		c := newClient(t, path)
		c.http.Timeout = 100 * time.Millisecond
		_, err := c.Status(t.Context())
		want := path + ": the daemon does not answer (is it stopped or overloaded?)"
		if err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		want += "; it may still do what it was told"
		if _, err = c.Drain(t.Context(), DrainRequest{All: true}); err == nil || err.Error() != want {
			t.Errorf("error of an order %v, want %s", err, want)
		}
	}
	full := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EAGAIN)}
	if got := NewClient("/s").explain(full).Error(); got != "/s: the daemon does not answer (is it stopped or overloaded?)" {
		t.Error(got)
	}
}
