package bfd

import "container/heap"

// queue orders the sessions by when they want to be called. Each knows its
// place, so that moving one costs no search.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].pos, q[j].pos = i, j
}

// Push is for heap.Push.
func (q *queue) Push(x any) {
	en := x.(*entry) // nothing else is ever pushed
	en.pos = len(*q)
	*q = append(*q, en)
}

// Pop is for heap.Remove.
func (q *queue) Pop() any {
	old := *q
	en := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return en
}

func (q *queue) add(en *entry)    { heap.Push(q, en) }
func (q *queue) fix(en *entry)    { heap.Fix(q, en.pos) }
func (q *queue) remove(en *entry) { heap.Remove(q, en.pos) }
