package bgp

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// maxReason is the longest text of a Cease (RFC 9003 section 2).
const maxReason = 128

// NOTIFICATION codes that are treated by name (RFC 4271 section 4.5, RFC 4486).
const (
	codeCease         = 6
	subAdminShutdown  = 2
	subAdminReset     = 4
	unexpectedMessage = "unexpected message during OPEN"
	writeFailed       = "write: "
	closedEarly       = "connection closed by the peer during OPEN"
	openError         = "OPEN Message Error"
	noAnswer          = "no answer"
	connectFailed     = "connect: "
	noConnection      = connectFailed + noAnswer
	noOpen            = "no answer to OPEN"
)

// openPatience is how long a peer may take to answer our OPEN before that is
// told. GoBGP waits for 4 minutes.
const openPatience = 10 * time.Second

// notificationText names a NOTIFICATION as the RFCs do, with the text that its
// sender gave, such as `Cease/Administrative Shutdown: "maintenance"`.
func notificationText(code, sub uint8, text string) string {
	name, subs := notificationNames(code)
	out := name
	switch {
	case int(sub) < len(subs) && subs[sub] != "":
		out += "/" + subs[sub]
	case sub != 0:
		out += "/subcode " + strconv.Itoa(int(sub))
	}
	if text != "" {
		out += ": " + strconv.Quote(strings.ToValidUTF8(text, "?"))
	}
	return out
}

func notificationNames(code uint8) (name string, subs []string) {
	switch code {
	case 1:
		return "Message Header Error", []string{"", "Connection Not Synchronized", "Bad Message Length", "Bad Message Type"}
	case 2:
		return openError, []string{
			"", "Unsupported Version Number", "Bad Peer AS", "Bad BGP Identifier",
			"Unsupported Optional Parameter", "", "Unacceptable Hold Time", "Unsupported Capability",
		}
	case 3:
		return "UPDATE Message Error", []string{
			"", "Malformed Attribute List", "Unrecognized Well-known Attribute",
			"Missing Well-known Attribute", "Attribute Flags Error", "Attribute Length Error", "Invalid ORIGIN Attribute", "",
			"Invalid NEXT_HOP Attribute", "Optional Attribute Error", "Invalid Network Field", "Malformed AS_PATH",
		}
	case 4:
		return "Hold Timer Expired", nil
	case 5:
		return "Finite State Machine Error", []string{"", "Unexpected Message in OpenSent", "Unexpected Message in OpenConfirm", "Unexpected Message in Established"}
	case codeCease:
		return "Cease", []string{
			"", "Maximum Number of Prefixes Reached", "Administrative Shutdown", "Peer De-configured",
			"Administrative Reset", "Connection Rejected", "Other Configuration Change", "Connection Collision Resolution",
			"Out of Resources", "Hard Reset", "BFD Down",
		}
	case 7:
		return "ROUTE-REFRESH Message Error", []string{"", "Invalid Message Length"}
	case 8:
		return "Send Hold Timer Expired", nil
	}
	return "code " + strconv.Itoa(int(code)), nil
}

// socketText says why a system call on a connection failed, without the
// addresses, which the reader of a peer's state knows.
func socketText(err error) string {
	if os.IsTimeout(err) {
		return noAnswer
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}

// fallText says why a session ended when no NOTIFICATION and no error told: from
// is the state that it left, reason GoBGP's word for it. It is empty when we
// ended the session ourselves.
func fallText(from, reason string) string {
	during := ""
	if !strings.HasSuffix(from, "ESTABLISHED") {
		during = " during OPEN"
	}
	switch reason {
	case "read-failed", "graceful-restart":
		return "connection closed by the peer" + during
	case "write-failed":
		return "connection broken while writing" + during
	case "hold-timer-expired":
		return "sent " + notificationText(4, 0, "")
	case "invalid-msg":
		return unexpectedMessage
	case "dying", "admin-down", "restart-timer-expired", "new-connection":
		return ""
	}
	return reason
}

// hint adds to a silence what may be behind it. TCP MD5 and GTSM have no error
// messages: what does not agree is dropped (RFC 2385 section 4.1, RFC 5082).
func hint(p *PeerState, want *Peer, now time.Time) {
	var guesses []string
	if want.Password != "" {
		guesses = append(guesses, "its password differs")
	} else {
		guesses = append(guesses, "it wants a password")
	}
	if want.TTLSecurity {
		guesses = append(guesses, "it does not use TTL security")
	}
	silent := p.Since.Add(openPatience)
	switch {
	case p.State == OpenSent && p.LastErrorAt.Before(p.Since) && !now.Before(silent):
		p.LastError, p.LastErrorAt = noOpen, silent
		if want.TTLSecurity {
			p.LastError += "; does the peer use TTL security too?"
		}
	case p.LastError == noConnection:
		p.LastError += ", or " + strings.Join(guesses, ", or ")
	}
}

// ceaseText cuts a reason to what RFC 9003 allows, never inside a character.
func ceaseText(reason string) string {
	reason = strings.ToValidUTF8(reason, "?")
	if len(reason) <= maxReason {
		return reason
	}
	cut := maxReason
	for cut > 0 && !utf8.RuneStart(reason[cut]) {
		cut--
	}
	return reason[:cut]
}

// fieldText renders one of GoBGP's log fields, which may hold anything.
func fieldText(v any) string { return fmt.Sprint(v) }
