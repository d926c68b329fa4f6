package main

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestStopOnADiskThatHangs: an order to stop is carried out although the disk, where
// it is to be noted, does not answer.
func TestStopOnADiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if err := inTime(func() error { return nil }); err != nil {
			t.Error(err)
		}
		no := errors.New("no")
		if err := inTime(func() error { return no }); !errors.Is(err, no) {
			t.Errorf("%v, want %v", err, no)
		}
		begin, hang := time.Now(), make(chan struct{})
		err := inTime(func() error {
			<-hang
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), "not done within 1s") || time.Since(begin) != noteWait {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		close(hang)
	})
}
