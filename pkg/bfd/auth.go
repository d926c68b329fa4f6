package bfd

import (
	"crypto/md5"  //nolint:gosec // RFC 5880 section 6.7.3 asks for it
	"crypto/sha1" //nolint:gosec // RFC 5880 section 6.7.4 asks for it
	"crypto/subtle"
	"encoding/binary"
)

// Authentication types on the wire and lengths of their sections (RFC 5880
// sections 4.2 to 4.4).
const (
	wireSimple         = 1
	wireMD5            = 2
	wireMeticulousMD5  = 3
	wireSHA1           = 4
	wireMeticulousSHA1 = 5

	simpleHeadLen = 3
	digestHeadLen = 8
	md5Len        = digestHeadLen + md5.Size
	sha1Len       = digestHeadLen + sha1.Size
	maxSimpleKey  = 16
)

// authenticator signs and checks packets of one session (RFC 5880 section 6.7).
// Its zero value means none.
type authenticator struct {
	kind  uint8 // as on the wire; 0 for none
	keyID uint8
	key   [sha1.Size]byte // padded with zeros
	// keyLen matters for the simple password only.
	keyLen int
	// bfd.XmitAuthSeq, bfd.RcvAuthSeq and bfd.AuthSeqKnown.
	xmitSeq, rcvSeq uint32
	seqKnown        bool
}

// newAuthenticator returns that of a validated configuration, with the first
// sequence number to send.
func newAuthenticator(a *Auth, seq uint32) authenticator {
	if a == nil {
		return authenticator{xmitSeq: seq} // for one that may follow
	}
	out := authenticator{keyID: a.KeyID, xmitSeq: seq}
	out.keyLen = copy(out.key[:], a.Key)
	switch a.Type {
	case SimplePassword:
		out.kind = wireSimple
	case KeyedMD5:
		out.kind = wireMD5
	case MeticulousKeyedMD5:
		out.kind = wireMeticulousMD5
	case KeyedSHA1:
		out.kind = wireSHA1
	case MeticulousKeyedSHA1:
		out.kind = wireMeticulousSHA1
	}
	return out
}

// len is the length of the authentication section.
func (a *authenticator) len() int {
	switch a.kind {
	case wireSimple:
		return simpleHeadLen + a.keyLen
	case wireMD5, wireMeticulousMD5:
		return md5Len
	case wireSHA1, wireMeticulousSHA1:
		return sha1Len
	default:
		return 0
	}
}

// sign fills the authentication section behind the mandatory section of b.
func (a *authenticator) sign(b []byte) {
	n := a.len()
	if n == 0 {
		return
	}
	sec := b[headerLen : headerLen+n]
	sec[0], sec[1], sec[2] = a.kind, byte(n), a.keyID //nolint:gosec // at most sha1Len
	if a.kind == wireSimple {
		copy(sec[simpleHeadLen:], a.key[:a.keyLen])
		return
	}
	// Every packet has its own number, also without "meticulous", for which
	// RFC 5880 section 6.7.3 allows it: no packet is ever repeated.
	a.xmitSeq++
	sec[3] = 0
	binary.BigEndian.PutUint32(sec[4:], a.xmitSeq)
	copy(sec[digestHeadLen:], a.key[:n-digestHeadLen])
	sum := digest(b[:headerLen+n], n)
	copy(sec[digestHeadLen:], sum[:n-digestHeadLen])
}

// digest is that of the whole packet in the length that belongs to a section of
// n bytes.
func digest(b []byte, n int) (sum [sha1.Size]byte) {
	if n == md5Len {
		s := md5.Sum(b) //nolint:gosec // see the import
		copy(sum[:], s[:])
		return sum
	}
	return sha1.Sum(b) //nolint:gosec // see the import
}

// verify tells why a packet is not authentic. raw is the packet in its own
// length, and is as it was afterwards.
func (a *authenticator) verify(p *packet, raw []byte) drop {
	switch {
	case a.kind == 0 && p.auth:
		return dropAuthUnexpected
	case a.kind == 0:
		return dropNone
	case !p.auth:
		return dropAuthMissing
	}
	sec := raw[headerLen:]
	n := a.len()
	switch {
	case len(sec) < simpleHeadLen:
		return dropAuthLength
	case sec[0] != a.kind:
		return dropAuthType
	case sec[2] != a.keyID:
		return dropAuthKeyID
	case a.kind == wireSimple && (int(sec[1]) != n || len(sec) != n):
		return dropAuthDigest // another length is another password
	case int(sec[1]) != n || len(sec) != n:
		return dropAuthLength
	case a.kind == wireSimple:
		if subtle.ConstantTimeCompare(sec[simpleHeadLen:], a.key[:a.keyLen]) != 1 {
			return dropAuthDigest
		}
		return dropNone
	}
	return a.verifyDigest(p, raw, sec, n)
}

// verifyDigest checks the sequence number and then the digest. The number is
// remembered only from a packet whose digest is right.
func (a *authenticator) verifyDigest(p *packet, raw, sec []byte, n int) drop {
	seq := binary.BigEndian.Uint32(sec[4:])
	if a.seqKnown {
		// Circular: numbers before rcvSeq are huge differences.
		ahead := seq - a.rcvSeq
		meticulous := a.kind == wireMeticulousMD5 || a.kind == wireMeticulousSHA1
		if ahead > 3*uint32(p.mult) || meticulous && ahead == 0 {
			return dropAuthSeq
		}
	}
	var got [sha1.Size]byte
	copy(got[:], sec[digestHeadLen:])
	copy(sec[digestHeadLen:], a.key[:n-digestHeadLen])
	want := digest(raw, n)
	copy(sec[digestHeadLen:], got[:n-digestHeadLen])
	if subtle.ConstantTimeCompare(got[:n-digestHeadLen], want[:n-digestHeadLen]) != 1 {
		return dropAuthDigest
	}
	a.seqKnown, a.rcvSeq = true, seq
	return dropNone
}
