// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package access decides who may read the stream of a run. The API server says
// who somebody is (TokenReview) and what they may (SubjectAccessReview); here
// its answers are kept for some seconds, and put into the words that it would
// use itself. For callers that can send no header there are tickets, and for
// requests that come through the API server there is the FrontDoor.
package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"chatrun.dev/operator/api/v1alpha1"
)

// Options are what a Gate goes by.
type Options struct {
	// Client asks the API server for its reviews, and keeps the tickets' key.
	Client kubernetes.Interface
	// TicketSecret is the Secret of the tickets' key. Without a name there are no
	// tickets at all; without a namespace there should be, but cannot.
	TicketSecret types.NamespacedName
	// FrontDoor lets in whom the API server vouches for; nil does not.
	FrontDoor *FrontDoor
	// Log gets what goes wrong with the API server. No secret is ever written.
	Log logr.Logger
}

// Gate admits those who have the right to `get` the subresource `log` of a run
// in the group stream.chatrun.dev, and to the list of runs those who may `list`
// them. It implements streamer.Guard.
type Gate struct {
	who     authenticator.Request
	reviews *reviews
	tickets *tickets
	front   *FrontDoor
}

// New returns a gate. It asks the API server for nothing yet.
func New(o Options) *Gate {
	asked := newReviews(o.Client, o.Log)
	ways := []authenticator.Request{bearertoken.New(cache.New(asked, false, allowTTL, denyTTL))}
	if o.FrontDoor != nil {
		ways = append(o.FrontDoor.ways(), ways...)
	}
	return &Gate{
		who: group.NewAuthenticatedGroupAdder(union.New(ways...)), reviews: asked,
		tickets: newTickets(o.Client, o.TicketSecret, o.Log), front: o.FrontDoor,
	}
}

// Admit implements streamer.Guard. The caller is who the header or the
// certificate says; if there is neither, who the ticket was issued to.
func (g *Gate) Admit(w http.ResponseWriter, r *http.Request, namespace, name string) bool {
	caller, err := g.caller(r)
	ticket := r.URL.Query().Get("ticket")
	if caller == nil && ticket != "" && r.Header.Get("Authorization") == "" {
		caller, err = g.tickets.open(r.Context(), ticket, namespace, name)
	}
	return g.known(w, caller, err) && g.may(w, r, caller, streamRight(namespace, name))
}

// AdmitList implements streamer.Guard. It wants the right to list the runs
// themselves, as a list tells of runs whose streams the caller may not read. A
// ticket is for one run, and no credential here.
func (g *Gate) AdmitList(w http.ResponseWriter, r *http.Request, namespace string) bool {
	caller, err := g.caller(r)
	return g.known(w, caller, err) && g.may(w, r, caller, listRight(namespace))
}

// Issue implements streamer.Guard. A ticket is no credential here, or it could
// be renewed for ever.
func (g *Gate) Issue(w http.ResponseWriter, r *http.Request, namespace, name string) {
	caller, err := g.caller(r)
	if !g.known(w, caller, err) || !g.may(w, r, caller, streamRight(namespace, name)) {
		return
	}
	ticket, expires, err := g.tickets.issue(r.Context(), caller, namespace, name)
	if err != nil {
		refuseTicket(w, err)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusCreated)
	// A caller that is gone already needs no answer.
	_ = json.NewEncoder(w).Encode(map[string]string{"ticket": ticket, "expiresAt": expires.UTC().Format(time.RFC3339)})
}

// caller finds out who sends the request: nil if nobody says so, or if it
// proved wrong. The error is errReview if it could not be found out.
func (g *Gate) caller(r *http.Request) (user.Info, error) {
	answer, ok, err := g.who.AuthenticateRequest(r)
	switch {
	case ok && err == nil:
		return answer.User, nil
	case errors.Is(err, errReview), r.Context().Err() != nil:
		return nil, errReview
	}
	// Why credentials are wrong is nobody's business but the API server's.
	return nil, nil
}

// known reports whether there is a caller, and refuses the request if not.
func (g *Gate) known(w http.ResponseWriter, caller user.Info, err error) bool {
	switch {
	case caller != nil:
		return true
	case errors.Is(err, errReview), errors.Is(err, errKey):
		refuse(w, tryAgain("it could not be found out who you are: try again"))
	case errors.Is(err, errTicket):
		refuse(w, unauthorized(err.Error()))
	default:
		refuse(w, unauthorized("Unauthorized"))
	}
	return false
}

// may reports whether the caller has a right, and refuses the request if not.
func (g *Gate) may(w http.ResponseWriter, r *http.Request, caller user.Info, right authorizationv1.ResourceAttributes) bool {
	note(r.Context(), caller.GetName())
	d, err := g.reviews.decide(r.Context(), question(caller, right))
	switch {
	case err != nil:
		refuse(w, tryAgain("it could not be found out whether you may read this: try again"))
	case !d.allowed:
		refuse(w, forbidden(caller.GetName(), right, d.reason))
	}
	return err == nil && d.allowed
}

// The right to read a run's stream, the same at every door.
const (
	streamGroup    = "stream.chatrun.dev"
	streamVersion  = "v1alpha1"
	streamResource = "chatruns"
	streamLog      = "log"
	streamVerb     = "get"
)

func streamRight(namespace, name string) authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{
		Verb: streamVerb, Group: streamGroup, Version: streamVersion, Resource: streamResource, Subresource: streamLog,
		Namespace: namespace, Name: name,
	}
}

// listRight is the one that kubectl get chatruns needs.
func listRight(namespace string) authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{
		Verb: "list", Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Resource: streamResource,
		Namespace: namespace,
	}
}

// question asks whether the caller has a right.
func question(caller user.Info, right authorizationv1.ResourceAttributes) authorizationv1.SubjectAccessReviewSpec {
	spec := asks(caller)
	spec.ResourceAttributes = &right
	return spec
}

// asks is a question about a caller, without what is asked.
func asks(caller user.Info) authorizationv1.SubjectAccessReviewSpec {
	extra := make(map[string]authorizationv1.ExtraValue, len(caller.GetExtra()))
	for key, values := range caller.GetExtra() {
		extra[key] = values
	}
	return authorizationv1.SubjectAccessReviewSpec{
		User: caller.GetName(), UID: caller.GetUID(), Groups: caller.GetGroups(), Extra: extra,
	}
}

// refuseTicket says why no ticket was issued to a caller who has the right.
func refuseTicket(w http.ResponseWriter, err error) {
	if lacking, ok := errors.AsType[*keyError](err); ok {
		refuse(w, tryAgain(lacking.told()))
		return
	}
	switch {
	case errors.Is(err, errNoTickets):
		refuse(w, notFound("this manager issues no tickets"))
	case errors.Is(err, errTooLarge):
		refuse(w, badRequest(fmt.Sprintf("your user, with its groups, does not fit into a ticket of %d bytes: "+
			"send your credentials in the Authorization header", maxTicket)))
	default:
		refuse(w, tryAgain(errKey.Error()))
	}
}
