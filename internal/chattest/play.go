// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest

import (
	"cmp"
	"crypto/tls"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// Content types of the vendors.
const (
	eventStream = "text/event-stream; charset=utf-8"
	jsonBody    = "application/json"
)

// Why a response ended before its end.
var (
	errGone   = errors.New("the client went away")
	errClosed = errors.New("the server closed")
	errFault  = errors.New("a fault of the script")
	errReset  = errors.New("a reset of the script")
)

// player sends one response.
type player struct {
	server  *Server
	w       http.ResponseWriter
	control *http.ResponseController
	gone    <-chan struct{} // closed when the client went away
	entry   *entry
	resp    Response
	form    form
	parts   []part

	buf   []byte // rendered, not yet sent
	room  int    // bytes that may still be sent before the body is cut; negative for no limit
	timer *time.Timer
}

// play sends resp and settles the entry. It does not return from a reset on
// HTTP/2, which net/http knows as a panic.
func (s *Server) play(w http.ResponseWriter, r *http.Request, e *entry, resp Response) {
	now := time.Now()
	a := newAnswer(&e.request, requestID(e.request.Seq), resp)
	p := &player{
		server: s, w: w, control: http.NewResponseController(w), gone: r.Context().Done(),
		entry: e, resp: resp, form: newForm(a, now), parts: a.parts, room: resp.truncate - 1,
	}
	err := p.send(now)
	if p.timer != nil {
		p.timer.Stop()
	}
	switch {
	case errors.Is(err, errGone):
		s.ledger.settle(e, Cancelled)
	case errors.Is(err, errClosed), errors.Is(err, errFault):
		s.ledger.settle(e, Broken)
		if errors.Is(err, errClosed) {
			panic(http.ErrAbortHandler) // never let a cut look like a clean end
		}
	case errors.Is(err, errReset):
		s.ledger.settle(e, Broken)
		p.reset()
	}
}

// requestID makes the id of a request in the form of the vendors' own.
func requestID(seq int) string {
	const zeros = "011C0000000000000000"
	n := strconv.Itoa(seq)
	return zeros[:max(0, len(zeros)-len(n))] + n
}

// send sends the response by its kind.
func (p *player) send(now time.Time) error {
	if err := p.wait(p.resp.slowHeaders); err != nil {
		return err
	}
	h := p.w.Header()
	switch p.resp.kind {
	case kindReset:
		return errReset
	case kindSilent:
		return p.stall()
	case kindError:
		e := p.resp.failure
		p.form.header(h)
		e.header(h, p.resp.retryAfter, now)
		return p.body(e.status, e.body("req_"+requestID(p.entry.request.Seq)))
	case kindRaw:
		h.Set("Content-Type", p.resp.contentType)
		return p.body(p.resp.status, []byte(p.resp.body))
	case kindDefault, kindAnswer:
	}
	p.form.header(h)
	if p.entry.request.Stream && !p.resp.unstreamed {
		h.Set("Content-Type", eventStream)
		h.Set("Cache-Control", "no-cache")
		p.start(http.StatusOK)
		return p.stream()
	}
	h.Set("Content-Type", jsonBody)
	if err := p.wait(p.resp.firstDelay); err != nil {
		return err
	}
	return p.body(http.StatusOK, p.form.whole(nil))
}

// start sends the header, the script's own fields last.
func (p *player) start(status int) {
	h := p.w.Header()
	for _, f := range p.resp.headers {
		if f.value == "" {
			h.Del(f.name)
		} else {
			h.Set(f.name, f.value)
		}
	}
	p.w.WriteHeader(status)
}

// body sends a response that is not a stream.
func (p *player) body(status int, body []byte) error {
	p.start(status)
	if p.resp.fault.kind != noFault {
		return p.strike()
	}
	state := Completed
	switch {
	case status >= http.StatusBadRequest:
		state = Refused
	case p.resp.kind == kindRaw, p.resp.unstreamed && p.entry.request.Stream:
		state = Broken
	}
	p.buf = append(p.buf, body...)
	return p.last(state)
}

// stream sends an answer part by part.
func (p *player) stream() error {
	p.buf = p.form.begin(p.buf)
	for i, part := range p.parts {
		if err := p.before(i); err != nil {
			return err
		}
		delay := p.resp.pace
		if i == 0 {
			delay = p.resp.firstDelay
		}
		if err := p.pause(delay); err != nil {
			return err
		}
		if p.resp.stamp != nil {
			part.text += p.resp.stamp()
		}
		p.buf = p.form.part(p.buf, part)
		if err := p.flush(); err != nil {
			return err
		}
		p.server.ledger.sent(p.entry)
	}
	if err := p.before(len(p.parts)); err != nil {
		return err
	}
	p.buf = p.form.end(p.buf)
	if p.resp.unterminated {
		return p.last(Broken)
	}
	return p.last(Completed)
}

// before does what the script wants after i parts and before the next, or
// before the end if there is none.
func (p *player) before(i int) error {
	if err := p.insert(i); err != nil {
		return err
	}
	if p.resp.fault.kind != noFault && (i >= p.resp.fault.after || i == len(p.parts)) {
		return p.strike()
	}
	return nil
}

// pause sends what is rendered, and waits.
func (p *player) pause(delay time.Duration) error {
	if delay <= 0 {
		return nil
	}
	if err := p.flush(); err != nil {
		return err
	}
	return p.wait(delay)
}

// insert sends and awaits what the script wants after i parts.
func (p *player) insert(i int) error {
	for _, in := range p.resp.inserts {
		if late := i == len(p.parts) && in.after > i; in.after != i && !late {
			continue
		}
		p.buf = append(p.buf, in.raw...)
		if in.gate == nil {
			continue
		}
		if err := p.flush(); err != nil {
			return err
		}
		select {
		case <-in.gate:
		case <-p.gone:
			return errGone
		case <-p.server.closing:
			return errClosed
		}
	}
	return nil
}

// strike lets the fault happen. It always returns an error.
func (p *player) strike() error {
	f := p.resp.fault
	if f.kind == faultError {
		if f.err.vendor == Anthropic {
			p.buf = append(p.buf, "event: error\n"...)
		}
		p.buf = append(p.buf, "data: "...)
		p.buf = append(p.buf, f.err.payload("req_"+requestID(p.entry.request.Seq))...)
		p.buf = append(p.buf, "\n\n"...)
	}
	if f.kind == faultError || f.kind == faultEnd {
		return cmp.Or(p.last(Broken), errFault)
	}
	if err := p.flush(); err != nil {
		return err
	}
	switch f.kind {
	case faultReset:
		return errReset
	case faultKeepAlives:
		for {
			if err := p.wait(max(f.every, time.Millisecond)); err != nil {
				return err
			}
			p.buf = p.form.keepAlive(p.buf)
			if err := p.flush(); err != nil {
				return err
			}
		}
	default:
		return p.stall()
	}
}

// last sends what is rendered as the end of the response. The entry is settled
// first, so that a client that has seen the end finds it settled.
func (p *player) last(state State) error {
	if p.room >= 0 && len(p.buf) > p.room {
		return p.flush() // cut: flush settles it
	}
	p.server.ledger.settle(p.entry, state)
	return p.flush()
}

// flush sends what is rendered, up to where the script cuts the body.
func (p *player) flush() error {
	cut := p.room >= 0 && len(p.buf) > p.room
	if cut {
		p.buf = p.buf[:p.room]
		p.server.ledger.settle(p.entry, Broken)
	}
	if _, err := p.w.Write(p.buf); err != nil {
		return p.lost()
	}
	if p.room >= 0 {
		p.room -= len(p.buf)
	}
	p.buf = p.buf[:0]
	if err := p.control.Flush(); err != nil {
		return p.lost()
	}
	if cut {
		return errFault
	}
	return nil
}

// lost says who ended a connection that cannot be written to.
func (p *player) lost() error {
	select {
	case <-p.server.closing:
		return errClosed
	default:
		return errGone
	}
}

// wait waits, unless the client goes away or the server closes.
func (p *player) wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	if p.timer == nil {
		p.timer = time.NewTimer(d)
	} else {
		p.timer.Reset(d)
	}
	select {
	case <-p.timer.C:
		return nil
	case <-p.gone:
		return errGone
	case <-p.server.closing:
		return errClosed
	}
}

// stall waits until the client goes away or the server closes.
func (p *player) stall() error {
	select {
	case <-p.gone:
		return errGone
	case <-p.server.closing:
		return errClosed
	}
}

// reset cuts the connection so that the client notices: with a TCP RST, or an
// RST_STREAM where many streams share the connection.
func (p *player) reset() {
	conn, _, err := p.control.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn() // no goodbye in TLS either
	}
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		// Closing without lingering is what makes it an RST. If it cannot be set, the
		// connection ends without the last chunk, which is an error for the client too.
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
