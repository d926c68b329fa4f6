package doctor

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// TestFixFails: a cure that fails is no good end, also of what is only a note.
func TestFixFails(t *testing.T) {
	l := &lab{t: t, in: &Input{Device: "vi0", Root: t.TempDir()}}
	l.put("run/NetworkManager/x", "")
	l.put("etc", "a file where a directory should be")
	r, err := Fix(t.Context(), l.in, "networkmanager")
	if err != nil || len(r.Findings) != 0 || len(r.Notes) != 1 || len(r.Fixed) != 1 || r.Fixed[0].Error == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if r.Good() {
		t.Error("a cure failed, and all is good")
	}
}

// TestConditionTwice: who names a condition twice hears of it once.
func TestConditionTwice(t *testing.T) {
	in := &Input{Unsynchronised: func() (bool, error) { return false, errors.New("no clock") }}
	r, err := Examine(t.Context(), in, "clock", "unfit", "clock")
	if err != nil || len(r.NotSeen) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	list, err := named([]string{"clock", "unfit", "clock"})
	if err != nil || len(list) != 2 {
		t.Errorf("%d conditions, %v", len(list), err)
	}
}

// TestSecondLook: what a look adds to the words of its condition, as that for another
// host with a VIP does, is not there in the next one.
func TestSecondLook(t *testing.T) {
	list := []Condition{{Name: "x", Severity: Bad, Effect: "harm", look: func(e *exam) {
		e.now.Effect = "of another host; " + e.now.Effect
		e.find(&Finding{})
	}}}
	for range 2 {
		if r := examine(t.Context(), &Input{}, list); len(r.Findings) != 1 || r.Findings[0].Why != "of another host; harm" {
			t.Errorf("%+v", r)
		}
	}
}

// TestShell: a command that is printed is the one that is run, whatever an interface is
// called (all but a slash and blanks is allowed).
func TestShell(t *testing.T) {
	words := []string{"printf", "%s,", "en1", `a'b`, "`id`", "$HOME", "~", "#x", "*", `"q"`, `\`, "a?", "[a]", "{ x; }", "!"}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", shell(words)).Output()
	if want := strings.Join(words[2:], ",") + ","; err != nil || string(out) != want {
		t.Errorf("%s: %s, %v", shell(words), out, err)
	}
	if got := shell([]string{"ip", "route", "add", "10.0.0.0/8", "dev", "en1"}); got != "ip route add 10.0.0.0/8 dev en1" {
		t.Error(got)
	}
}

// TestNeighbourSocket: of what passes on an interface, only what may be an answer is
// looked at.
func TestNeighbourSocket(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "1") // nothing of the kernel's own
		ns.Veth("near", "far")
		near, err := net.InterfaceByName("near")
		if err != nil {
			t.Fatal(err)
		}
		far, err := net.InterfaceByName("far")
		if err != nil {
			t.Fatal(err)
		}
		fd, err := neighbourSocket(near.Index)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd) //nolint:errcheck // the end of the test
		out, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(out) //nolint:errcheck // the end of the test
		advertisement := neighbourProbe(far.HardwareAddr, netip.MustParseAddr("fd00::1"))
		advertisement[etherHeader+40] = 136
		arp := arpProbe(far.HardwareAddr, netip.MustParseAddr("10.0.0.1"))
		arp[etherHeader+7] = 2
		ipv4, tcp := bytes.Clone(arp), bytes.Clone(advertisement)
		ipv4[12], ipv4[13], tcp[etherHeader+6] = 8, 0, unix.IPPROTO_TCP
		for _, frame := range [][]byte{ipv4, tcp, neighbourProbe(far.HardwareAddr, netip.MustParseAddr("fd00::1")), advertisement, ipv4, arp} {
			netnstest.Until(t, soon, func() error { return unix.Sendto(out, frame, 0, &unix.SockaddrLinklayer{Ifindex: far.Index, Halen: 6}) })
		}
		var got []string
		// What comes last is let in.
		for b, end := make([]byte, 2048), time.Now().Add(soon); !slices.Contains(got, "arp") && time.Now().Before(end); {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case bytes.Equal(b[:n], advertisement):
				got = append(got, "advertisement")
			case bytes.Equal(b[:n], arp):
				got = append(got, "arp")
			default:
				got = append(got, "other")
			}
		}
		if list := strings.Join(got, " "); list != "advertisement arp" {
			t.Errorf("came: %s", list)
		}
	})
}
