// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"net/http"

	"chatrun.dev/operator/api/stream"
)

// answer streams a finished run from its view, with the same frames in the same
// order as one that was followed to its end.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, v *View, q query) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
	release, err := v.load(r.Context())
	if err != nil {
		code, reason, message := unread(v.Run.Name, err)
		refuse(w, code, reason, message)
		return
	}
	defer release()
	writeHeader(w, formatEvents)
	out := h.sink(w, r)
	// A reader that goes away meanwhile has nobody to be told of.
	if out.send(reconnectAfter(reconnect)) == nil {
		_ = out.sendFinished(v, q.after != "")
	}
}

// finished returns the frames of a finished run that come before its text and
// after it, and the place of the text between them. Their epoch is in no log, so
// who is cut among them and comes back is reset, and gets all of them again.
func finished(v *View, reset bool) (before [][]byte, text cursor, after [][]byte) {
	at := cursor{epoch: newEpoch(), attempt: v.Status.Attempt}
	var frames [][]byte
	add := func(what stream.Name, data any) {
		at.seq++
		frames = append(frames, event(at, what, encode(data)))
	}
	if reset {
		add(stream.EventReset, stream.Reset{Attempt: v.Status.Attempt})
	}
	add(stream.EventStatus, v.Status)
	before, frames = frames, nil
	if v.Text != "" {
		at.seq++
	}
	text = at
	if v.Title != "" {
		add(stream.EventTitle, stream.Title{Title: v.Title})
	}
	if v.End.Usage != nil {
		add(stream.EventUsage, v.End.Usage)
	}
	if v.End.Failed != nil {
		add(stream.EventFailed, v.End.Failed)
	}
	return before, text, append(frames, eventWithID([]byte(endID(v.Run.UID)), stream.EventDone, encode(v.End.Done)))
}
