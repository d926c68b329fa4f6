package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// stuck is a writer that takes nothing until it is opened.
type stuck struct {
	bytes.Buffer

	open chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.open
	return s.Buffer.Write(p)
}

// put writes to the queue, which has no errors.
func put(q *logQueue, format string, args ...any) { _, _ = fmt.Fprintf(q, format, args...) }

// TestLogWaitsForNobody: a reader that hangs costs lines and no time, and when it
// goes on it hears how many.
func TestLogWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &stuck{open: make(chan struct{})}
		q := newLogQueue(w)
		q.tell(func(lost int) { put(q, "lost %d\n", lost) })
		begin := time.Now()
		line := strings.Repeat("x", 1023) + "\n"
		put(q, "first\n")
		synctest.Wait() // it hangs in that one
		for range logRoom/len(line) + 3 {
			put(q, "%s", line)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("the lines took %v", took)
		}
		close(w.open)
		synctest.Wait()
		put(q, "last\n")
		q.close()
		want := "first\n" + strings.Repeat(line, logRoom/len(line)) + "lost 3\nlast\n"
		if got := w.String(); got != want {
			t.Errorf("%d bytes that end with %q, want %d", len(got), got[max(len(got)-30, 0):], len(want))
		}
	})
}

// TestLogEndsInTime: what nobody takes does not hold up the end.
func TestLogEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &stuck{open: make(chan struct{})}
		begin := time.Now()
		err := logged(w, func(q *logQueue) error {
			put(q, "started\n")
			return errors.New("no luck")
		})
		if took := time.Since(begin); took != logGoodbye {
			t.Errorf("the end took %v, want %v", took, logGoodbye)
		}
		if bad, ok := errors.AsType[*badEnd](err); !ok || bad.err != nil {
			t.Errorf("error %v, want one that is printed already", err)
		}
		close(w.open)
		synctest.Wait()
		if got := w.String(); got != "started\nvipspeaker: no luck\n" {
			t.Errorf("%q was written in the end", got)
		}
	})
}

// fails is a writer whose disk is full for a while.
type fails struct {
	bytes.Buffer

	full bool
}

func (f *fails) Write(p []byte) (int, error) {
	if f.full {
		return 0, io.ErrShortWrite
	}
	return f.Buffer.Write(p)
}

func TestLogCountsWhatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fails{full: true}
		q := newLogQueue(w)
		q.tell(func(lost int) { put(q, "lost %d\n", lost) })
		put(q, "a\nb\n")
		synctest.Wait()
		w.full = false
		put(q, "c\n")
		synctest.Wait()
		q.close()
		if got := w.String(); got != "c\nlost 2\n" {
			t.Errorf("written: %q", got)
		}
	})
}

// TestRunOutlivesTheReaderOfItsLog: writing to a pipe that nobody reads is not the
// end of the process.
func TestRunOutlivesTheReaderOfItsLog(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	if err = r.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "run", "--config", write(t, "bad.yaml", badConfig))
	cmd.Env = append(os.Environ(), programMarker+"=1")
	cmd.Stderr = w
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitBad {
		t.Errorf("ended with %v, want exit code %d", err, exitBad)
	}
}
