package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// unicastProbes is how many probes without an answer go to the known link-layer
	// address. The next and all later ones ask everybody.
	unicastProbes = 2
	// setTries bounds how often a probe begins anew because the entry changed
	// between look and touch.
	setTries = 3
	// linkBytes holds the largest message, that of a link (32 KiB).
	linkBytes = 32 << 10
	// skipStatistics is RTEXT_FILTER_SKIP_STATS (linux/rtnetlink.h).
	skipStatistics = 1 << 3
	// attributeFlagsExt is NDA_FLAGS_EXT (linux/neighbour.h).
	attributeFlagsExt = 15
	// extManaged is NTF_EXT_MANAGED (linux/neighbour.h).
	extManaged = 1 << 0

	nudValid = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
)

// NeighbourConfig is a probe of a neighbour on a link, such as a gateway.
type NeighbourConfig struct {
	// Interface is the name of the link. It may come, go and come back.
	Interface string
	// Address is the neighbour's, of either family, link-local or not.
	Address netip.Addr
}

type neighbourCheck struct {
	link    string
	address netip.Addr
	misses  atomic.Int32 // probes in a row without an answer
}

// NewNeighbour returns a check that passes when the neighbour answers: to an ARP
// request (IPv4) or a neighbour solicitation (IPv6) that went out after the run
// began. The kernel asks, with the interface's own address as source: the check
// tells it to verify its entry, the one that traffic uses, and hears of the outcome. So
// there is no raw socket; CAP_NET_ADMIN is needed. One run sends one packet.
//
// The entry stays in use while it is probed, and is asked by unicast: traffic
// notices nothing, and no broadcast goes out. After two probes without an
// answer the entry is given up, which the kernel would do after three seconds, and
// everybody is asked for the address: a router that took it over with another
// link-layer address is followed. No sysctl is changed. An entry's link-layer address
// is never written, and a shorter time-out is not needed: what counts is that of the run.
//
// Where there is nothing to ask, the check passes while the interface is up: on
// interfaces without ARP (IFF_NOARP), and with an entry that the administrator
// made permanent or managed. The kernel sends no probe for a permanent one, and
// to make it another would take it away from its owner.
//
// It fails without an interface, and for an address that is no neighbour's.
func NewNeighbour(c NeighbourConfig) (Checker, error) {
	a := c.Address.Unmap().WithZone("")
	switch {
	case c.Interface == "" || len(c.Interface) >= unix.IFNAMSIZ:
		return nil, fmt.Errorf("neighbour check: no interface can have the name %q", c.Interface)
	case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
		return nil, fmt.Errorf("neighbour check: %s is no address of a neighbour", c.Address)
	}
	return &neighbourCheck{link: c.Interface, address: a}, nil
}

// errSilent is the error of a probe that had no answer.
var errSilent = errors.New("no answer")

// Check implements Checker.
func (c *neighbourCheck) Check(ctx context.Context) error {
	err := c.probe(ctx)
	switch {
	case err == nil:
		c.misses.Store(0)
	case errors.Is(err, errSilent):
		c.misses.Add(1)
		return fmt.Errorf("%s does not answer neighbour probes on %s", c.address, c.link)
	case ctx.Err() != nil: // before the question was out
		return ctx.Err()
	}
	return err
}

// probe makes the kernel ask, and waits for the answer.
func (c *neighbourCheck) probe(ctx context.Context) error {
	sock, err := openNetlink(unix.NETLINK_ROUTE, linkBytes)
	if err != nil {
		return err
	}
	defer sock.close()
	defer context.AfterFunc(ctx, func() { _ = sock.file.SetDeadline(time.Unix(1, 0)) })()
	index, probed, err := c.look(sock)
	if err != nil || !probed {
		return err
	}
	// Both before the probe, so that no event of it is missed.
	if err = errors.Join(sock.filter(neighbourFilter(index)), sock.join(unix.RTNLGRP_NEIGH)); err != nil {
		return err
	}
	if answered, err := c.begin(sock, index); err != nil || answered {
		return c.silence(ctx, err)
	}
	for {
		b, err := sock.read()
		switch {
		case errors.Is(err, unix.ENOBUFS): // the event may have been among the lost
			if e, lost := c.entry(sock, index); lost == nil && e.state&unix.NUD_REACHABLE != 0 {
				return nil
			}
			continue
		case err != nil:
			return c.silence(ctx, err)
		}
		for m := range netlinkMessages(b) {
			if c.confirms(m) {
				return nil
			}
		}
	}
}

// silence is errSilent for the error that the end of the context made.
func (c *neighbourCheck) silence(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errSilent
	}
	return err
}

// look finds the interface, whose index may be another than last time. It tells
// whether its neighbours can be asked at all.
func (c *neighbourCheck) look(sock *netlinkSocket) (index uint32, probed bool, err error) {
	b := make([]byte, unix.SizeofIfInfomsg)
	b = appendAttribute(b, unix.IFLA_IFNAME, append([]byte(c.link), 0))
	b = appendAttribute(b, unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, skipStatistics))
	b, err = sock.ask(unix.RTM_GETLINK, 0, b, nil)
	switch {
	case errors.Is(err, unix.ENODEV):
		return 0, false, fmt.Errorf("there is no interface %s", c.link)
	case err != nil:
		return 0, false, fmt.Errorf("look for interface %s: %w", c.link, err)
	case len(b) < unix.SizeofIfInfomsg:
		return 0, false, fmt.Errorf("look for interface %s: answer of %d bytes", c.link, len(b))
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	switch {
	case flags&unix.IFF_UP == 0:
		return 0, false, fmt.Errorf("%s is down", c.link)
	case flags&unix.IFF_RUNNING == 0:
		return 0, false, fmt.Errorf("%s has no carrier", c.link)
	}
	return binary.NativeEndian.Uint32(b[4:]), flags&unix.IFF_NOARP == 0, nil
}

// begin makes the kernel send one solicitation now. It is already answered where
// nothing can be asked.
func (c *neighbourCheck) begin(sock *netlinkSocket, index uint32) (answered bool, err error) {
	for range setTries {
		e, err := c.entry(sock, index)
		if err != nil {
			return false, err
		}
		if e.state&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0 || e.managed {
			return true, nil
		}
		answered, err = c.solicit(sock, index, e)
		switch {
		// The entry went, or its link-layer address did, since it was looked at.
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL):
			continue
		case errors.Is(err, unix.EPERM):
			return false, fmt.Errorf("probe %s on %s: CAP_NET_ADMIN is missing: %w", c.address, c.link, err)
		case err != nil:
			return false, fmt.Errorf("probe %s on %s: %w", c.address, c.link, err)
		}
		return answered, nil
	}
	return false, fmt.Errorf("probe %s on %s: its entry changes too fast", c.address, c.link)
}

// solicit brings the entry into the state in whose first moment the kernel asks.
// The answer may be there before the kernel says that it did so.
func (c *neighbourCheck) solicit(sock *netlinkSocket, index uint32, e neighbourEntry) (answered bool, err error) {
	missed := c.misses.Load()
	if e.state&nudValid != 0 && missed < unicastProbes {
		// In PROBE since the last run, which had no answer: to be set to the state
		// that it has would send nothing.
		if e.state&unix.NUD_PROBE != 0 {
			if _, err := c.set(sock, index, unix.NUD_STALE, e.flags); err != nil {
				return false, err
			}
		}
		return c.set(sock, index, unix.NUD_PROBE, e.flags)
	}
	if e.state&unix.NUD_INCOMPLETE != 0 && missed == 0 {
		return false, nil // somebody's packet has just made the kernel ask
	}
	// Another state first: the kernel asks only about an entry that it needs anew.
	if e.state != 0 && e.state&unix.NUD_FAILED == 0 {
		if _, err := c.set(sock, index, unix.NUD_FAILED, e.flags); err != nil {
			return false, err
		}
	}
	return c.touch(sock, unix.NLM_F_CREATE, c.body(index, 0, unix.NTF_USE))
}

// set changes the state of the entry, and nothing else: without NLM_F_REPLACE and
// a link-layer address the kernel keeps the one it has, and a flag stays if it
// is given.
func (c *neighbourCheck) set(sock *netlinkSocket, index uint32, state uint16, flags uint8) (answered bool, err error) {
	return c.touch(sock, 0, c.body(index, state, flags&(unix.NTF_EXT_LEARNED|unix.NTF_ROUTER)))
}

// touch changes the entry, and tells whether it was confirmed meanwhile.
func (c *neighbourCheck) touch(sock *netlinkSocket, flags uint16, body []byte) (answered bool, err error) {
	_, err = sock.ask(unix.RTM_NEWNEIGH, flags|unix.NLM_F_ACK, body, func(m netlinkMessage) {
		answered = answered || c.confirms(m)
	})
	return answered, err
}

// body is that of a request about the entry.
func (c *neighbourCheck) body(index uint32, state uint16, flags uint8) []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = unix.AF_INET6
	if c.address.Is4() {
		b[0] = unix.AF_INET
	}
	binary.NativeEndian.PutUint32(b[4:], index)
	binary.NativeEndian.PutUint16(b[8:], state)
	b[10] = flags
	return appendAttribute(b, unix.NDA_DST, c.address.AsSlice())
}

// neighbourEntry is what the kernel has of the neighbour; zero if nothing.
type neighbourEntry struct {
	state   uint16
	flags   uint8
	managed bool
}

func (c *neighbourCheck) entry(sock *netlinkSocket, index uint32) (neighbourEntry, error) {
	b, err := sock.ask(unix.RTM_GETNEIGH, 0, c.body(index, 0, 0), nil)
	if errors.Is(err, unix.ENOENT) {
		return neighbourEntry{}, nil
	}
	if err != nil {
		return neighbourEntry{}, fmt.Errorf("look for neighbour %s on %s: %w", c.address, c.link, err)
	}
	e, _ := c.decode(netlinkMessage{kind: unix.RTM_NEWNEIGH, body: b})
	return e, nil
}

// decode tells whether a message is of the neighbour, and what it says. Those of
// other interfaces do not get here.
func (c *neighbourCheck) decode(m netlinkMessage) (neighbourEntry, bool) {
	if m.kind != unix.RTM_NEWNEIGH || len(m.body) < unix.SizeofNdMsg {
		return neighbourEntry{}, false
	}
	e := neighbourEntry{state: binary.NativeEndian.Uint16(m.body[8:]), flags: m.body[10]}
	same := false
	for kind, v := range netlinkAttributes(m.body[unix.SizeofNdMsg:]) {
		switch {
		case kind == unix.NDA_DST:
			a, ok := netip.AddrFromSlice(v)
			same = ok && a == c.address
		case kind == attributeFlagsExt && len(v) >= 4:
			e.managed = binary.NativeEndian.Uint32(v)&extManaged != 0
		}
	}
	return e, same
}

// confirms tells whether an event says that the neighbour answered.
func (c *neighbourCheck) confirms(m netlinkMessage) bool {
	e, ok := c.decode(m)
	return ok && e.state&unix.NUD_REACHABLE != 0
}

// neighbourFilter keeps out the neighbours of other interfaces: a host can have
// many thousands.
func neighbourFilter(index uint32) []unix.SockFilter {
	// The program reads numbers in network order, netlink has them in the host's.
	kind := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.RTM_NEWNEIGH))
	link := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, index))
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 2, K: uint32(kind)},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: unix.SizeofNlMsghdr + 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: link},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
}
