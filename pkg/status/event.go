package status

import "time"

// Event is one transition.
type Event struct {
	// Seq grows by one with each event of the process, from 1.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	// Level is info or warn: whether it got worse.
	Level string `json:"level"`
	// Kind is the kind of subject: vip, check, interface, probe, peer, bfd,
	// speaker, source, kernel, config or daemon. Subject names it; Interface and
	// VIP say where it is, if that is not the subject itself.
	Kind      string `json:"kind"`
	Subject   string `json:"subject"`
	Interface string `json:"interface,omitempty"`
	VIP       string `json:"vip,omitempty"`
	// Message says what happened in few fixed words, such as "peer down"; From
	// and To are the states where there are such.
	Message string `json:"message"`
	From    string `json:"from,omitempty"`
	To      string `json:"to,omitempty"`
	// Cause is why, in words; empty if that is not known.
	Cause string `json:"cause,omitempty"`
}
