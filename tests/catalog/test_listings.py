"""The catalogues of other services."""

from deepserve.catalog.listings import load_listings
from deepserve.catalog.models import load_models

_LISTINGS = load_listings()


def test_every_listing_has_a_model_behind_it() -> None:
    known = {model.id for model in load_models().models}
    for catalogue in (_LISTINGS.openrouter, _LISTINGS.oxen):
        assert {listing.model for listing in catalogue if listing.is_listed} == known
        assert {listing.model for listing in catalogue} == known


def test_no_name_means_two_listings() -> None:
    for catalogue in (_LISTINGS.openrouter, _LISTINGS.oxen):
        for listing in catalogue:
            for name in (listing.name, listing.dated_name, listing.hugging_face_id or listing.name, *listing.names):
                assert [one for one in catalogue if one.is_called(name.lower())] == [listing]
