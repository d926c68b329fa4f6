package privilege

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestMaySwitchUsers(t *testing.T) {
	all := []uint32{1 << unix.CAP_SETUID, 1 << unix.CAP_SETGID, 1 << unix.CAP_KILL}
	if !maySwitch(all[0] | all[1] | all[2]) {
		t.Error("not with all that it takes")
	}
	for _, missing := range all {
		if maySwitch(^missing) {
			t.Errorf("without capability %b", missing)
		}
	}
}
