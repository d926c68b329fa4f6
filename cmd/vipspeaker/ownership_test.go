package main

import (
	"os"
	"testing"

	"vipspeaker/test/netnstest"
)

// TestInstance: a daemon of a network namespace is known again, and is another one
// than that of another namespace.
func TestInstance(t *testing.T) {
	const variable = "VIPSPEAKER_TEST_INSTANCE"
	here, err := instance()
	if err != nil || here == "" {
		t.Fatalf("%q, %v", here, err)
	}
	if again, err := instance(); err != nil || again != here {
		t.Errorf("%q, then %q, %v", here, again, err)
	}
	if os.Getenv(variable) == "" { // the process in the namespace begins here, too
		t.Setenv(variable, here)
	}
	netnstest.Run(t, func(t *testing.T, _ netnstest.NS) {
		if here == os.Getenv(variable) {
			t.Errorf("%q in another namespace, too", here)
		}
	})
}
