// Package ndp finds the routers of a link and lets them find us: what BGP
// sessions over link-local addresses ("unnumbered") need before they can begin.
//
// It sends router advertisements that make nobody's default router (RFC 4861
// section 6.2, router lifetime 0, no prefixes), hears those of others, and
// reads the kernel's neighbour table for routers that send none. It changes
// nothing of the host: what the kernel makes of advertisements is the
// administrator's to say (accept_ra).
package ndp

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// maxRouters bounds the routers of one interface that are known by their
// advertisements, and likewise those known by the neighbour table only. Whoever
// is on the link can invent any number.
const maxRouters = 16

// Options is what a Manager needs of its surroundings.
type Options struct {
	// Log gets debug lines only; nil for none. The caller logs transitions.
	Log *slog.Logger
	// Poke is called when the routers of an interface, their order, or an Error
	// changed, without locks held. It must not block. Nil for none.
	Poke func()
}

// State is an immutable picture of the wanted interfaces, in the order of Set
// and without repetitions. Its one writer is Manager.
type State struct {
	Interfaces []Interface
}

// Interface returns the state of the interface with that name, or false.
func (s *State) Interface(name string) (Interface, bool) {
	if s != nil {
		for i := range s.Interfaces {
			if s.Interfaces[i].Name == name {
				return s.Interfaces[i], true
			}
		}
	}
	return Interface{}, false
}

// Interface is what is known of one link.
type Interface struct {
	Name string
	// Index is the kernel's number of the interface; 0 while there is none.
	Index int
	// Routers are at most 32: first those that advertise themselves, then
	// neighbours that call themselves routers, then other neighbours; among
	// equals the one that appeared last comes first, and their order does not
	// change while they stay.
	Routers []Router
	// Error is why routers cannot be found, or not all of them; empty if all is
	// well. There may be Routers all the same.
	Error string
}

// Router is a possible peer.
type Router struct {
	// Address is link-local, its zone the name of the interface.
	Address netip.Addr
	// ByAdvertisement tells that it advertises itself, Flagged that at least the
	// neighbour table has it as a router. Without both it is any neighbour.
	ByAdvertisement, Flagged bool
	// Heard is when it gave its last sign of life, Expires when it goes without
	// another one.
	Heard, Expires time.Time
}

// Permitted is an error unless the process may open the sockets that a Manager
// needs.
func Permitted() error {
	fd, err := rawSocket()
	if err != nil {
		return err
	}
	_ = unix.Close(fd)
	return nil
}

// rawSocket opens a socket for ICMPv6.
func rawSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return 0, errors.New("router advertisements are not permitted: needs CAP_NET_RAW")
	case errors.Is(err, unix.EAFNOSUPPORT):
		return 0, errors.New("the kernel has no IPv6")
	case err != nil:
		return 0, fmt.Errorf("open ICMPv6 socket: %w", err)
	}
	return fd, nil
}
