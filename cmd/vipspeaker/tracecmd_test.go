package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
)

// brokenWriter is a full disk.
type brokenWriter struct{}

// Write implements io.Writer.
func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// TestTraceNotWritten: that the output could not be written is one line.
func TestTraceNotWritten(t *testing.T) {
	for _, form := range []output{asTable, asJSON} {
		if err := show(brokenWriter{}, &status.Trace{}, form); err == nil || err.Error() != "write the output: no space left" {
			t.Errorf("%s: %v", form, err)
		}
	}
}

// TestSocketFlags: what is wrong with a flag of the socket is said with its name, also
// that it is empty, and that it says nothing where no socket is looked at.
func TestSocketFlags(t *testing.T) {
	store := status.NewStore()
	store.Publish(onePicture(time.Now()))
	socket := fakeDaemon(t, store)
	for line, want := range map[string]string{
		"status source 127.0.0.1 --user=":          `--user: "" is neither a user`,
		"status source 127.0.0.1 --user=no-such":   `--user: "no-such" is neither a user`,
		"status source 127.0.0.1 --mark=":          `--mark: "" is no mark`,
		"status source 127.0.0.1 --interface=":     `--interface: "" is no interface of this host`,
		"trace to 127.0.0.1 --interface=no-such":   `--interface: "no-such" is no interface of this host`,
		"trace vipa 127.0.0.1 --interface=no-such": `--interface: "no-such" is no interface of this host`,
		"trace to vipa --mark=zz --interface=lo":   "--mark, --interface: only for packets that leave this host, not for those to vipa",
		"trace to 10.68.6.1/32 --user=0":           "--user: only for packets that leave this host, not for those to vipa",
	} {
		got := call(t, append([]string{"--socket", socket}, strings.Fields(line)...)...)
		if got.Code != exitBad || !strings.HasPrefix(got.Stderr, "vipspeaker: "+want) {
			t.Errorf("%s: %+v, want %s", line, got, want)
		}
	}
}
