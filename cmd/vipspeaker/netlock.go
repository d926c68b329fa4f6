package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// networkLock is the abstract Unix socket that a daemon, and `cleanup`, holds
// for as long as it lives. Abstract names belong to a network namespace
// (unix(7)), as do the rules, routes and addresses that two processes would
// take from each other, whatever their state directories and mount namespaces
// are. The kernel frees the name when the process ends, and no program that is
// executed inherits the socket (the net package opens it with SOCK_CLOEXEC).
const networkLock = "@vipspeaker"

// takeNetwork locks the network namespace of this process. It returns an error
// that names the process which holds it and what to do.
func takeNetwork(ctx context.Context) (io.Closer, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", networkLock)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("lock the network namespace: %w", err)
	}
	return nil, fmt.Errorf("another vipspeaker%s serves this network namespace (it holds the abstract socket %s); "+
		"there can be one: stop that one first", networkHolder(ctx), networkLock)
}

// networkHolder says which process holds the lock, empty if that is not known,
// as when it lives in a PID namespace that this one does not see.
func networkHolder(ctx context.Context) string {
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "unix", networkLock)
	if err != nil {
		return ""
	}
	defer c.Close() //nolint:errcheck // nothing was written
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return ""
	}
	var peer *unix.Ucred
	if err := raw.Control(func(fd uintptr) { peer, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return ""
	}
	if peer == nil || peer.Pid <= 0 {
		return ""
	}
	return fmt.Sprintf(" (process %d of user %d)", peer.Pid, peer.Uid)
}
