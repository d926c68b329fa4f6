package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// maxPath is the longest path of a Unix socket: sun_path of unix(7) without its
// final NUL.
const maxPath = 107

// dialPatience bounds a connection that the kernel makes or refuses at once: a host that
// stands still meanwhile is not to be taken for a socket that cannot be tried.
const dialPatience = 10 * time.Second

// socketName is the name of the socket in its temporary directory; short,
// because the path is bounded.
const socketName = "s"

// privatePattern is the name of that directory, for os.MkdirTemp. It is new in
// every case and has nothing of the operator's path in it.
const privatePattern = ".vipspeaker-*"

// Listen makes the socket at path, mode 0660 and of the process's group, so
// that root and the members of that group may connect. Missing parent
// directories are made with mode 0755.
//
// The socket is made in a private directory and moved to its place when it has
// its mode: at no time can others connect, whatever the umask is. A socket that
// a dead process left is replaced; one that answers is an error, as is anything
// that is not a socket. Closing the listener removes the socket.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	s := &socket{path: path}
	var err error
	if s.listener, s.info, err = listen(ctx, path); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return s, nil
}

func listen(ctx context.Context, path string) (l net.Listener, info fs.FileInfo, err error) {
	dir := filepath.Dir(path)
	if err = makeParent(dir); err != nil {
		return nil, nil, err
	}
	if err = refuseLive(ctx, path); err != nil {
		return nil, nil, err
	}
	private, err := os.MkdirTemp(dir, privatePattern)
	if err != nil {
		return nil, nil, err
	}
	temporary := filepath.Join(private, socketName)
	// Nothing but what was made here is removed. A process that is killed in
	// between leaves the directory, which harms nobody.
	defer func() {
		os.Remove(temporary) //nolint:errcheck,gosec // moved away, unless something failed
		os.Remove(private)   //nolint:errcheck,gosec // an empty directory is left at worst
	}()
	if len(temporary) > maxPath || len(path) > maxPath {
		return nil, nil, fmt.Errorf("the path is too long for a Unix socket by %d octets", max(len(temporary), len(path))-maxPath)
	}
	var lc net.ListenConfig
	if l, err = lc.Listen(ctx, "unix", temporary); err != nil {
		return nil, nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(temporary, 0o660); err == nil { //nolint:gosec // the daemon's group may connect
		if info, err = os.Lstat(temporary); err == nil {
			err = os.Rename(temporary, path)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return l, info, nil
}

// makeParent makes the directory if it is missing, so that everybody can reach
// what is in it whatever the umask is: the socket's own mode keeps others out.
func makeParent(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // everybody may reach it
		return err
	}
	return os.Chmod(dir, 0o755) //nolint:gosec // see above
}

// refuseLive returns an error if something at path must not be replaced.
func refuseLive(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("it exists and is not a socket; remove it or set control.socket to another path")
	}
	d := net.Dialer{Timeout: dialPatience}
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(errors.New("another process answers on it; is vipspeaker running already?"), c.Close())
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil // nobody listens: its process is dead
	}
	return fmt.Errorf("it exists and cannot be tried: %w", err)
}

// socket is a listener that is made anew when its file is gone, and that removes its
// file when it is closed, unless another process has put its own there.
type socket struct {
	path string

	mu       sync.Mutex
	listener net.Listener
	info     fs.FileInfo // of its file
	closed   bool
}

// now is the listener that has the path.
func (s *socket) now() net.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener
}

// Accept implements net.Listener.
func (s *socket) Accept() (net.Conn, error) {
	for {
		l := s.now()
		c, err := l.Accept()
		if err != nil && s.now() != l {
			continue // it was closed for the one that has its path now
		}
		return c, err
	}
}

// Addr implements net.Listener.
func (s *socket) Addr() net.Addr { return s.now().Addr() }

// Close implements net.Listener.
func (s *socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.info) {
		os.Remove(s.path) //nolint:errcheck,gosec // the next start replaces it
	}
	return s.listener.Close()
}

// restore makes the socket anew if there is nothing at its path, as after somebody
// has cleaned its directory up: nobody could talk with the daemon until its next
// start. Connections go on. What others have put there stays.
func (s *socket) restore(ctx context.Context) (done bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err = os.Lstat(s.path); s.closed || !errors.Is(err, fs.ErrNotExist) {
		return false, nil // what cannot be looked at cannot be made either
	}
	l, info, err := listen(ctx, s.path)
	if err != nil {
		return false, err
	}
	old := s.listener
	s.listener, s.info = l, info
	return true, old.Close()
}

// keep restores the socket until ctx ends.
func (s *socket) keep(ctx context.Context, every time.Duration, logger *slog.Logger) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for failed := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		done, err := s.restore(ctx)
		switch {
		case err != nil && ctx.Err() == nil && err.Error() != failed:
			failed = err.Error()
			logger.WarnContext(ctx, "control socket is gone and cannot be made anew", "path", s.path, "error", err)
		case done:
			failed = ""
			logger.WarnContext(ctx, "control socket was removed, made anew", "path", s.path)
		}
	}
}
