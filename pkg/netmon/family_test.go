package netmon

import (
	"errors"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"
)

// Of a family that the kernel does not have, as IPv6 on a host that was booted with
// ipv6.disable=1, there are no rules; anything else would be an error for ever, and
// no picture. MPLS has rules nowhere.
func TestFamilyTheKernelLacks(t *testing.T) {
	m := New(Options{Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(m.closeSockets)
	body := make([]byte, unix.SizeofRtMsg)
	body[0] = unix.AF_MPLS
	if err := m.ask(rules, unix.RTM_GETRULE, unix.NLM_F_DUMP, body, func([]byte) {}); !errors.Is(err, unix.EAFNOSUPPORT) {
		t.Fatalf("the kernel says %v to rules of MPLS, want EAFNOSUPPORT", err)
	}
	if err := m.askFamily(unix.AF_MPLS, rules, unix.RTM_GETRULE, unix.SizeofRtMsg, func([]byte) { t.Error("there are some") }); err != nil {
		t.Errorf("rules of MPLS: %v", err)
	}
}
