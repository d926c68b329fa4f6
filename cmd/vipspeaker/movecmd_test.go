package main

import (
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
)

// TestHandoverOrder: what has become of an order is told as it is: carried out, in
// force, void, or not known.
func TestHandoverOrder(t *testing.T) {
	const (
		order   = 40
		inForce = "the order is in force: it still may"
		unknown = "does not show yet what became of it: it still may"
	)
	before := status.Role{Owner: "a", Epoch: 7, Revision: 39}
	asked := status.Role{Owner: "a", Epoch: 7, Revision: order, Next: "b"}
	taken := status.Role{Owner: "b", Epoch: 41, Revision: 41}
	for _, tt := range []struct {
		name  string
		order int64
		looks []status.Role
		done  bool
		void  string // why the order never will be carried out
		late  string // what is said if it has not been in time
	}{
		{name: "carried out", order: order, looks: []status.Role{before, asked, {Owner: "b", Epoch: 41, Revision: 41, Former: "a"}}, done: true},
		{name: "carried out unseen", order: order, looks: []status.Role{before, taken}, done: true},
		{name: "carried out, and moved on", order: order, looks: []status.Role{{Owner: "b", Epoch: 41, Revision: 42, Next: "c"}}, done: true},
		{name: "in force", order: order, looks: []status.Role{before, asked}, late: inForce},
		{name: "in force, etcd gone", order: order, looks: []status.Role{{Owner: "a", Epoch: 7, Revision: order, Next: "b", Trouble: "no answer"}}, late: inForce + " (etcd cannot be asked: no answer)"},
		{name: "given twice", order: order, looks: []status.Role{{Owner: "a", Epoch: 7, Revision: 41, Next: "b"}}, late: inForce},
		{name: "the owner is gone while both announce it", order: order, looks: []status.Role{asked, {Next: "b"}}, late: inForce},
		{name: "nothing seen", order: order, late: unknown},
		{name: "a picture of before", order: order, looks: []status.Role{before}, late: unknown},
		{name: "a picture of before, when it was b's", order: order, looks: []status.Role{{Owner: "b", Epoch: 6, Revision: 6}}, late: unknown},
		{name: "a picture of before, when it was nobody's", order: order, looks: []status.Role{{}}, late: unknown},
		{name: "taken back", order: order, looks: []status.Role{asked, {Owner: "a", Epoch: 7, Revision: 41}}, void: "its owner a has taken the order back, as b was not ready for it any more"},
		{name: "taken back unseen", order: order, looks: []status.Role{before, {Owner: "a", Epoch: 7, Revision: 41}}, void: "its owner a has taken the order back"},
		{name: "another order", order: order, looks: []status.Role{{Owner: "a", Epoch: 7, Revision: 41, Next: "c"}}, void: "another order came after this one, for c"},
		{name: "another owner", order: order, looks: []status.Role{asked, {Owner: "c", Epoch: 45, Revision: 45}}, void: "c came to own it"},
		{name: "another owner, which hands it over", order: order, looks: []status.Role{asked, {Owner: "c", Epoch: 45, Revision: 46, Next: "d"}}, void: "c came to own it"},
		{name: "no owner", order: order, looks: []status.Role{asked, {}}, void: "nobody owns it any more"},
		{name: "a daemon that does not tell", looks: []status.Role{{Owner: "a", Epoch: 7, Next: "b"}, {Owner: "a", Epoch: 7}}, late: "within 10s; it still may"},
		{name: "a daemon that does not tell, carried out", looks: []status.Role{{Owner: "b", Epoch: 41}}, done: true},
	} {
		h := &handover{name: "db", to: "b", order: tt.order}
		var done bool
		var err error
		for i := range tt.looks {
			if done || err != nil {
				t.Errorf("%s: done %t, %v after look %d", tt.name, done, err, i)
			}
			done, err = h.look(&tt.looks[i])
		}
		if done != tt.done || (err != nil) != (tt.void != "") || err != nil && !strings.Contains(err.Error(), tt.void) {
			t.Errorf("%s: done %t, %v; want %t, %q", tt.name, done, err, tt.done, tt.void)
		}
		if text := h.late(10 * time.Second).Error(); tt.late != "" && !strings.HasSuffix(text, tt.late) {
			t.Errorf("%s: %q, want %q", tt.name, text, tt.late)
		}
	}
}
