package bgp

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Subcodes of the OPEN Message Error (RFC 4271 section 4.5).
const (
	codeOpen  = 2
	subPeerAS = 2
	subPeerID = 3
)

// refusal is why a peer is not the wanted one.
type refusal struct {
	local, peer netip.Addr
	subcode     uint8
	text        string
}

// refusal compares what the last OPEN said with what is wanted, nil if they
// agree. The caller holds smu.
func (s *Speaker) refusal(rec *session) *refusal {
	out := &refusal{local: rec.peer.LocalAddress, peer: rec.peer.Address}
	switch {
	case rec.peer.External && rec.remoteAS != 0 && rec.remoteAS == s.asn:
		out.subcode, out.text = subPeerAS, fmt.Sprintf("AS %d is this host's own, wanted is an external one", rec.remoteAS)
	case rec.peer.RouterID.IsValid() && rec.remoteID.IsValid() && rec.peer.RouterID != rec.remoteID:
		out.subcode, out.text = subPeerID, fmt.Sprintf("router id is %s, wanted is %s", rec.remoteID, rec.peer.RouterID)
	default:
		return nil
	}
	return out
}

// refuse ends the connections with a peer by a NOTIFICATION of OPEN Message
// Error, which GoBGP's calls have no way to send.
func (s *Speaker) refuse(r refusal) {
	s.adapter.note(r.peer.String(), "sent "+notificationText(codeOpen, r.subcode, "")+" ("+r.text+")")
	message := make([]byte, 0, 21)
	for range 16 {
		message = append(message, 0xff)
	}
	message = append(message, 0, 21, 3, codeOpen, r.subcode) // RFC 4271 sections 4.1, 4.5
	err := eachConnection(r.local, r.peer, func(fd int) {
		_, _ = unix.Write(fd, message) // the connection ends in any case
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	})
	if err != nil {
		s.log.Warn("peer cannot be refused", "peer", r.peer, "error", err)
	}
}
