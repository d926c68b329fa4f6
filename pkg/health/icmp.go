package health

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// icmpNonceBytes is the length of what an echo reply must bring back.
const icmpNonceBytes = 16

// ICMPConfig is a check that sends an echo request.
type ICMPConfig struct {
	Address netip.Addr
	// Source is the address to send from; zero for the kernel's choice.
	Source netip.Addr
	// Device is the link to send out of, whatever the routes say, and also the
	// zone of a link-local address; empty for what the routes say.
	Device string
}

type icmpCheck struct {
	config ICMPConfig
	target string
}

// NewICMP returns a check that passes when the reply to one echo request of its
// own comes from the address. It fails for an address that no one host has. A
// process that may not send echo requests learns so from each run, and before
// from ICMPPermitted.
func NewICMP(c ICMPConfig) (Checker, error) {
	a := c.Address.Unmap()
	switch {
	case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return nil, fmt.Errorf("icmp check: address %s: not one host's", c.Address)
	case a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" && c.Device == "":
		return nil, fmt.Errorf("icmp check: address %s: no device", c.Address)
	}
	if err := checkSource(c.Source, a); err != nil {
		return nil, fmt.Errorf("icmp check: %w", err)
	}
	target := "icmp " + a.String()
	if c.Device != "" {
		target += " by " + c.Device
	}
	c.Address, c.Source = a, c.Source.Unmap()
	return &icmpCheck{config: c, target: target}, nil
}

// Check implements Checker.
func (c *icmpCheck) Check(ctx context.Context) error {
	start := time.Now()
	s, err := openICMP(c.config)
	if err != nil {
		return failure(ctx, start, c.target, err)
	}
	defer func() { _ = s.file.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = s.file.Close() })
	defer stop()
	e := echo{address: c.config.Address, id: s.id}
	if err = e.send(s); err == nil {
		err = e.await(s)
	}
	if err != nil {
		return failure(ctx, start, c.target, err)
	}
	return nil
}

// echo is one echo request. A socket may see the replies to others: those of the
// raw kind all do.
type echo struct {
	address netip.Addr
	id, seq uint16
	nonce   [icmpNonceBytes]byte
}

// send makes a number and nonce and sends the request.
func (e *echo) send(s *icmpSocket) error {
	_, _ = rand.Read(e.nonce[:]) // never fails
	e.seq = binary.NativeEndian.Uint16(e.nonce[:])
	request := icmp.Message{
		Type: ipv4.ICMPTypeEcho,
		Body: &icmp.Echo{ID: int(e.id), Seq: int(e.seq), Data: e.nonce[:]},
	}
	if e.address.Is6() {
		request.Type = ipv6.ICMPTypeEchoRequest
	}
	raw, err := request.Marshal(nil) // the checksum for IPv6 is the kernel's
	if err != nil {
		return err
	}
	return s.send(raw)
}

// await reads until the reply is there, or an error about the request, or the
// socket is closed.
func (e *echo) await(s *icmpSocket) error {
	buffer := make([]byte, 512)
	for {
		b, from, err := s.receive(buffer)
		switch {
		case err == nil && from == e.address.WithZone("") && e.answeredBy(b):
			return nil
		case err == nil:
			continue
		case !errors.As(err, new(unix.Errno)):
			return err // closed
		}
		// The kernel reports an ICMP error as that of the next call, once; those of
		// others' requests too, to a raw socket.
		if more, about := e.drain(s); more {
			if about != nil {
				return about
			}
			continue
		}
		return err
	}
}

// answeredBy tells whether the message is the reply to this request.
func (e *echo) answeredBy(b []byte) bool {
	protocol := unix.IPPROTO_ICMP
	if e.address.Is6() {
		protocol = unix.IPPROTO_ICMPV6
	}
	m, err := icmp.ParseMessage(protocol, b)
	if err != nil || m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply {
		return false
	}
	body, ok := m.Body.(*icmp.Echo)
	return ok && body.ID == int(e.id) && body.Seq == int(e.seq) && bytes.Equal(body.Data, e.nonce[:])
}

// drain empties the socket's queue of ICMP errors. It tells whether there were
// any, and returns one that is about this request.
func (e *echo) drain(s *icmpSocket) (more bool, about error) {
	for {
		report, ok := s.report()
		if !ok {
			return more, about
		}
		more = true
		// What is quoted of the request begins with its header: type, code,
		// checksum, id, number (RFC 792).
		if q := report.quoted; report.fatal() && len(q) >= 8 && binary.BigEndian.Uint16(q[4:]) == e.id && binary.BigEndian.Uint16(q[6:]) == e.seq {
			about = report.err()
		}
	}
}
