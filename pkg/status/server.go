package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// maxConns bounds the connections that a server holds open. Honest clients need
// a handful; strangers must not use up the daemon's file descriptors, which
// sessions and netlink need.
const maxConns = 128

// Listen opens the TCP address host:port that http.listen of the configuration
// names.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("http.listen %s: %w", address, err)
	}
	return l, nil
}

// NewServer returns an HTTP server that slow and greedy clients cannot hold up:
// every phase of a request is bounded in time, and the oldest connection is
// closed when there are more than 128.
func NewServer(h http.Handler, logger *slog.Logger) *http.Server {
	limit := &connLimit{}
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 2 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ConnState:         limit.changed,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// Serve answers on l until ctx ends, then lets running requests finish for a
// second. It returns nil when ctx ended, and closes l in every case.
func Serve(ctx context.Context, srv *http.Server, l net.Listener) error {
	stopped := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(stopped)
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(bounded) != nil {
			srv.Close() //nolint:errcheck,gosec // there is nothing left to do about it
		}
	})
	err := srv.Serve(l)
	if errors.Is(err, http.ErrServerClosed) && !unhook() {
		<-stopped
		return nil
	}
	unhook()
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}

// connLimit closes the oldest connection when there are too many. Refusing the
// newest instead would let idle strangers lock everybody else out.
type connLimit struct {
	mu   sync.Mutex
	open []net.Conn // oldest first
}

// changed is a ConnState hook of http.Server.
func (l *connLimit) changed(c net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state {
	case http.StateNew:
		l.open = append(l.open, c)
		if len(l.open) > maxConns {
			l.open[0].Close() //nolint:errcheck,gosec // it is given up in any case
			l.open = l.open[1:]
		}
	case http.StateClosed, http.StateHijacked:
		for i := range l.open {
			if l.open[i] == c {
				l.open = append(l.open[:i], l.open[i+1:]...)
				return
			}
		}
	case http.StateActive, http.StateIdle:
	}
}
