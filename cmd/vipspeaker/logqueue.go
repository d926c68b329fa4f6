package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// logRoom is how many bytes of the log wait for a reader that is slow: a few
	// thousand lines.
	logRoom = 1 << 20
	// logGoodbye is how long the end waits for what is left of the log.
	logGoodbye = time.Second
)

// logQueue is the log of a daemon, which waits for nobody: what takes the lines
// may be a pipe or a journal whose reader hangs, and a daemon that waits for it
// would lose its sessions. Lines for which there is no room are lost and counted.
type logQueue struct {
	w     io.Writer
	wake  chan struct{}
	ended chan struct{}

	mu     sync.Mutex
	text   []byte // lines that are not written yet
	lost   int    // lines, since told was called
	told   func(lost int)
	closed bool
}

func newLogQueue(w io.Writer) *logQueue {
	q := &logQueue{w: w, wake: make(chan struct{}, 1), ended: make(chan struct{}), told: func(int) {}}
	go q.run()
	return q
}

// tell sets what is called with the number of lost lines once the log is taken
// again.
func (q *logQueue) tell(told func(lost int)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.told = told
}

// Write takes whole lines. It does not wait and has no error.
func (q *logQueue) Write(lines []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.text)+len(lines) > logRoom {
		q.lost += bytes.Count(lines, []byte("\n"))
		return len(lines), nil
	}
	q.text = append(q.text, lines...)
	q.poke()
	return len(lines), nil
}

// close writes what is left, for a bounded time.
func (q *logQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.poke()
	q.mu.Unlock()
	within(q.ended, logGoodbye)
}

func (q *logQueue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run writes until the queue is closed.
func (q *logQueue) run() {
	defer close(q.ended)
	for range q.wake {
		q.mu.Lock()
		text, closed := q.text, q.closed
		q.text = nil
		q.mu.Unlock()
		var err error
		if len(text) > 0 {
			_, err = q.w.Write(text)
		}
		if told, lost := q.written(text, err); lost > 0 {
			told(lost)
		}
		if closed {
			return
		}
	}
}

// written returns how many lines are lost, once all others are written.
func (q *logQueue) written(text []byte, err error) (told func(lost int), lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil { // nobody reads, or the disk is full
		q.lost += bytes.Count(text, []byte("\n"))
		return nil, 0
	}
	if len(q.text) > 0 {
		return nil, 0
	}
	lost, q.lost = q.lost, 0
	return q.told, lost
}

// logged is a command that logs to w for long. How it ended is written there too,
// for whoever prints it by other means may have to wait for w.
func logged(w io.Writer, work func(*logQueue) error) error {
	q := newLogQueue(w)
	defer q.close()
	err := work(q)
	if err == nil {
		return nil
	}
	sayError(q, err)
	return &badEnd{}
}

// sayError prints an error of a command, unless the command has said it itself.
func sayError(w io.Writer, err error) {
	if bad, ok := errors.AsType[*badEnd](err); ok {
		err = bad.err
	}
	if err != nil {
		_, _ = fmt.Fprintf(w, "vipspeaker: %v\n", err)
	}
}
