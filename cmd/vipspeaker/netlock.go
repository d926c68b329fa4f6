package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
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
// that names the process which holds it and what to do. Abstract names are
// anybody's to take, so a holder that could be no daemon is not believed; then
// there is nothing to hold.
func takeNetwork(ctx context.Context) (io.Closer, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", networkLock)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("lock the network namespace: %w", err)
	}
	holder := networkHolder(ctx)
	if holder != nil && impostor(int(holder.Pid)) {
		return io.NopCloser(nil), nil
	}
	who, pid := "", 0
	if holder != nil {
		who, pid = fmt.Sprintf(" (process %d of user %d)", holder.Pid, holder.Uid), int(holder.Pid)
	}
	return nil, &heldError{pid: pid, text: fmt.Sprintf("another vipspeaker%s serves this network namespace (it holds the abstract socket %s); "+
		"there can be one: stop that one first", who, networkLock)}
}

// networkHolder says which process holds the lock, nil if that is not known,
// as when it lives in a PID namespace that this one does not see.
func networkHolder(ctx context.Context) *unix.Ucred {
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "unix", networkLock)
	if err != nil {
		return nil
	}
	defer c.Close() //nolint:errcheck // nothing was written
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil
	}
	var peer *unix.Ucred
	if err := raw.Control(func(fd uintptr) { peer, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil
	}
	if peer == nil || peer.Pid <= 0 {
		return nil
	}
	return peer
}

// impostor tells whether a process surely cannot change the network: it lacks
// CAP_NET_ADMIN, or has it in another user namespace only (capabilities(7)).
// What may not be looked at is given the benefit of the doubt.
func impostor(pid int) bool {
	proc := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(proc + "/status") //nolint:gosec // of the process that holds the lock
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if set, ok := strings.CutPrefix(line, "CapEff:"); ok {
			held, parseErr := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			if parseErr == nil && held&(1<<unix.CAP_NET_ADMIN) == 0 {
				return true
			}
		}
	}
	theirs, err := os.Readlink(proc + "/ns/user")
	ours, ownErr := os.Readlink("/proc/self/ns/user")
	return err == nil && ownErr == nil && theirs != ours
}
