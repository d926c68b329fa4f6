package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vipspeaker/internal/draft"

	"golang.org/x/sys/unix"
)

// lockName is the file in the state directory that a daemon holds locked for as
// long as it lives. The kernel releases the lock when the process ends, however
// it ends, so it never has to be broken by hand.
const lockName = "lock"

// record is the text in the lock file: whose it is, which order to stop that
// process has had, and where it listens. What it says outlives the process.
//
// It has no version: what another one does not know it does not read.
type record struct {
	pid int
	// stop is "" (none), "drain" or "restart".
	stop string
	// socket is the absolute path of its control socket, http the address of its
	// metrics or "off"; "" if that is not known.
	socket, http string
}

// String writes the record in three lines.
func (r record) String() string {
	return strings.TrimRight(fmt.Sprintf("%d %s", r.pid, r.stop), " ") + "\n" + r.socket + "\n" + r.http + "\n"
}

// parseRecord reads a record; what is no record gives the zero one.
func parseRecord(data string) record {
	var r record
	lines := append(strings.Split(data, "\n"), "", "")
	r.socket, r.http = lines[1], lines[2]
	fields := strings.Fields(lines[0])
	if len(fields) > 0 {
		if pid, err := strconv.Atoi(fields[0]); err == nil {
			r.pid = pid
		}
	}
	if len(fields) > 1 {
		r.stop = fields[1]
	}
	return r
}

// lock is a held lock on a state directory and on the network namespace.
type lock struct {
	file    *os.File
	network io.Closer
	// before is what the former holder wrote, mine what this one did.
	before, mine record
}

// heldError says that another process holds a lock.
type heldError struct {
	pid  int // 0 if it is not known
	text string
	// record is what the holder of the state directory wrote, nil if only the
	// network namespace is held.
	record *record
}

func (e *heldError) Error() string { return e.text }

// A process that is killed while it starts a program leaves a copy of itself for
// a moment, with all that it held, until that program is executed.
const (
	afterlife = time.Second
	// lockRetry is the time between two tries to get the lock.
	lockRetry = 20 * time.Millisecond
)

// takeLock makes the state directory if it is missing and locks it, and the
// network namespace too, because another state directory does not make another
// host. It returns an error that names the process which holds either; for one
// that has just ended it waits for up to a second.
func takeLock(ctx context.Context, dir string) (*lock, error) {
	return awaitLock(ctx, dir, afterlife, func(h *heldError) bool {
		return h.pid != 0 && errors.Is(unix.Kill(h.pid, 0), unix.ESRCH)
	})
}

// awaitLock is takeLock that waits for up to within, as long as who holds the lock
// is worth waiting for.
func awaitLock(ctx context.Context, dir string, within time.Duration, worth func(*heldError) bool) (*lock, error) {
	// Not by the clock: who stands still with the whole machine would give up at once, and
	// what it waits for has stood still, too.
	for tries := within / lockRetry; ; tries-- {
		l, err := tryLock(ctx, dir)
		var held *heldError
		if !errors.As(err, &held) || !worth(held) || tries <= 0 {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lockRetry):
		}
	}
}

func tryLock(ctx context.Context, dir string) (*lock, error) {
	l, err := takeDirectory(dir)
	if err != nil {
		return nil, err
	}
	if l.network, err = takeNetwork(ctx); err != nil {
		return nil, errors.Join(err, l.file.Close())
	}
	return l, nil
}

func takeDirectory(dir string) (*lock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the control socket in it is for a group
		return nil, fmt.Errorf("state directory: %w", err)
	}
	path := filepath.Join(dir, lockName)
	file, err := draft.Open(path, os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	data, err := os.ReadFile(path) //nolint:gosec // as above
	l := &lock{file: file, before: parseRecord(string(data))}
	if err == nil {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		return l, nil
	}
	file.Close() //nolint:errcheck,gosec // nothing was written
	if errors.Is(err, unix.EWOULDBLOCK) {
		text := fmt.Sprintf("another vipspeaker (process %d) uses the state directory %s: stop that one first", l.before.pid, dir)
		return nil, &heldError{pid: l.before.pid, text: text, record: &l.before}
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// write replaces the record in the file.
func (l *lock) write(r record) error {
	text := r.String()
	if _, err := l.file.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("write %s: %w", l.file.Name(), err)
	}
	if err := l.file.Truncate(int64(len(text))); err != nil {
		return fmt.Errorf("truncate %s: %w", l.file.Name(), err)
	}
	l.mine = r
	return nil
}

// release gives both back; the record stays.
func (l *lock) release() error { return errors.Join(l.network.Close(), l.file.Close()) }
