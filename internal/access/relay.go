// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"errors"
	"net/http"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/client-go/kubernetes"
)

// RelayAudience is whom the token of a replica is for, and for nobody else: what
// one replica sends to another is of no use at the API server.
const RelayAudience = "chatrun.dev/relay"

// RelayGuard lets in replicas alone: who runs under the ServiceAccount that this
// manager does, and says so by a token that is for replicas. It implements
// streamer.Admitter. A replica may read every run, and asked who reads before.
type RelayGuard struct {
	who    authenticator.Request
	self   *Self
	log    logr.Logger
	failed failure
}

// NewRelayGuard returns a guard. It asks the API server for nothing yet. self is
// who this manager is.
func NewRelayGuard(client kubernetes.Interface, self *Self, log logr.Logger) *RelayGuard {
	asked := newReviews(client, log)
	asked.audience = RelayAudience
	return &RelayGuard{who: bearertoken.New(cache.New(asked, false, allowTTL, denyTTL)), self: self, log: log}
}

// Admit reports whether the request is a replica's. If not, it has answered it.
func (g *RelayGuard) Admit(w http.ResponseWriter, r *http.Request, _, _ string) bool {
	answer, ok, err := g.who.AuthenticateRequest(r)
	switch {
	case errors.Is(err, errReview), r.Context().Err() != nil:
		refuse(w, tryAgain("it could not be found out who you are: try again"))
		return false
	case err != nil || !ok:
		// Why credentials are wrong is nobody's business but the API server's.
		refuse(w, unauthorized("Unauthorized"))
		return false
	}
	note(r.Context(), answer.User.GetName())
	self, err := g.self.Name(r.Context())
	switch {
	case err != nil:
		g.failed.log(g.log, err, "asking who this manager is", "create selfsubjectreviews.authentication.k8s.io")
		refuse(w, tryAgain("it could not be found out whether you are a replica: try again"))
	case answer.User.GetName() != self:
		refuse(w, statusError(http.StatusForbidden, metav1.StatusReasonForbidden, "this is for the replicas of this manager alone"))
	}
	return err == nil && answer.User.GetName() == self
}
