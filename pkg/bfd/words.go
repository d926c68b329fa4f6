package bfd

// state is bfd.SessionState as on the wire (RFC 5880 section 4.1).
type state uint8

const (
	stateAdminDown state = 0
	stateDown      state = 1
	stateInit      state = 2
	stateUp        state = 3
)

// status is the state's name.
func (s state) status() SessionStatus {
	switch s {
	case stateAdminDown:
		return AdminDown
	case stateInit:
		return Init
	case stateUp:
		return Up
	default:
		return Down
	}
}

// diagnostic is a diagnostic code (RFC 5880 section 4.1).
type diagnostic uint8

const (
	diagNone         diagnostic = 0
	diagTimeExpired  diagnostic = 1
	diagNeighborDown diagnostic = 3
	diagAdminDown    diagnostic = 7
)

// words are those of RFC 5880 section 4.1; empty for no diagnostic.
func (d diagnostic) words() string {
	switch d {
	case diagNone:
		return ""
	case diagTimeExpired:
		return "control detection time expired"
	case 2:
		return "echo function failed"
	case diagNeighborDown:
		return "neighbor signaled session down"
	case 4:
		return "forwarding plane reset"
	case 5:
		return "path down"
	case 6:
		return "concatenated path down"
	case diagAdminDown:
		return "administratively down"
	case 8:
		return "reverse concatenated path down"
	default:
		return "reserved diagnostic"
	}
}

// drop is why a packet is not taken.
type drop uint32

const (
	dropNone drop = iota
	dropShort
	dropVersion
	dropLength
	dropMult
	dropMultipoint
	dropMyDiscr
	dropYourZero
	dropUnknown
	dropTTL
	dropInterface
	dropReflected
	dropAuthMissing
	dropAuthUnexpected
	dropAuthLength
	dropAuthType
	dropAuthKeyID
	dropAuthSeq
	dropAuthDigest
)

// words say it to the user.
func (d drop) words() string {
	switch d {
	case dropNone:
		return ""
	case dropShort:
		return "shorter than a control packet"
	case dropVersion:
		return "version is not 1"
	case dropLength:
		return "wrong length"
	case dropMult:
		return "detect multiplier is 0"
	case dropMultipoint:
		return "multipoint bit is set"
	case dropMyDiscr:
		return "my discriminator is 0"
	case dropYourZero:
		return "your discriminator is 0 in a state other than Down and AdminDown"
	case dropUnknown:
		return "your discriminator is of no session"
	case dropTTL:
		return "TTL too low"
	case dropInterface:
		return "came in by another interface or port"
	case dropReflected:
		return "own packet came back"
	case dropAuthMissing:
		return "not authenticated"
	case dropAuthUnexpected:
		return "authenticated, but no authentication is configured"
	case dropAuthLength:
		return "wrong length of the authentication section"
	case dropAuthType:
		return "other authentication type"
	case dropAuthKeyID:
		return "other authentication key ID"
	case dropAuthSeq:
		return "authentication sequence number outside of the window"
	case dropAuthDigest:
		return "wrong authentication key"
	default:
		return "unknown reason"
	}
}
